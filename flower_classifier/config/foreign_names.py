"""What other programs of this kind call the options of the commands, and what to say of options that are not here.

Names that 147 public solutions of the exercise use. Each means what it says, or it is refused in a sentence that says
what to do; one that programs use for different things (`--checkpoint` for where to write, or what to read) is refused.
A name is known with or without its `_`.
"""

from flower_classifier.base.parser import ForeignNames

NOT_NEEDED = "it is not needed, since all processor cores read photos"
NO_GPU = "it is not needed, since the processor computes, unless --gpu is given"
BY_CHECKPOINT = "it is not needed, since the checkpoint says it"
BY_CLASSES = "it is not needed, since it is the number of class folders"
TWO_LAYERS = "--hidden_units 512 256 makes two hidden layers"
INTO_FILE = "--save_dir says where the checkpoint goes, --resume goes on with the run there"
GOES_ON = "it goes on with the run that lies in --save_dir"
RATE_FALLS = (
    "it is not here: a head keeps its rate and the average of its steps, and fine-tuning's rate falls by itself"
)
OPTIMIZER = "it is not here: the optimizer is AdamW, and --learning_rate and --weight_decay set it"
SPLITS = "it is not needed, since DATA_DIR holds train/, valid/ and test/"

WITH_DEVICE = frozenset({"device", "dev", "gpu_cpu", "mode"})  # names of --gpu that always have a value

SHARED = {
    "gpu": ("device", "dev", "gpu_cpu", "mode", "use_gpu", "cuda", "use_cuda", "enable_gpu", "pred_gpu", "g"),
    "category_names": (
        "category_name",
        "cat_names",
        "cat_name",
        "cat_to_name",
        "category_names_file",
        "category_file",
        "categories",
        "class_names",
        "names",
        "label_names",
        "class_dict",
        "class_mapping",
        "categories_json",
        "cnames",
        "cn",
        "json",
        "json_file",
        "json_path",
    ),
}

TRAIN = ForeignNames(
    same={
        **SHARED,
        "data_dir": (
            "data_directory",
            "data_path",
            "data",
            "dataset",
            "dataset_dir",
            "dir",
            "directory",
            "image_dir",
            "images_dir",
        ),
        "save_dir": (
            "save_directory",
            "save_path",
            "save",
            "save_to",
            "save_file",
            "saved_model",
            "output_dir",
            "sd",
            "s",
        ),
        "arch": ("architecture", "model_arch", "model_name", "network", "backbone", "a"),
        "learning_rate": ("learn_rate", "learn_r", "learning_r", "lrate", "lrn", "lrn_rate", "l"),
        "hidden_units": (
            "hidden_unit",
            "hidden_units1",
            "hidden_1",
            "hidden_input",
            "hidden_size",
            "hidden_sizes",
            "hidden",
            "hid",
            "hl1",
            "hlu",
            "hu",
            "units",
        ),
        "epochs": (
            "epoch",
            "num_epochs",
            "num_epoch",
            "n_epochs",
            "epochs_num",
            "epoch_num",
            "number_of_epochs",
            "training_epochs",
            "max_epochs",
            "e",
        ),
        "batch_size": ("batch", "bs", "b"),
        "dropout": (
            "drop",
            "drop_out",
            "dropout_rate",
            "drop_rate",
            "drop_p",
            "dropout_p",
            "p_dropout",
            "drop_prob",
            "dropout_prob",
        ),
        "valid_split": ("val_split", "validation_split", "valid_share"),
        "seed": ("random_seed", "manual_seed"),
        "image_size": ("img_size",),
    },
    hints={
        **dict.fromkeys(("num_workers", "workers", "num_threads", "pin_memory"), NOT_NEEDED),
        **dict.fromkeys(("cpu", "no_cuda", "no_gpu"), NO_GPU),
        **dict.fromkeys(
            (
                "hidden_layer2",
                "hidden_layer_2",
                "hidden_units2",
                "hidden_units_2",
                "hidden_2",
                "hl2",
                "fc2",
                "hidden_layers",
            ),
            TWO_LAYERS,
        ),
        **dict.fromkeys(("checkpoint", "checkpoint_path", "checkpoint_dir", "checkpoint_file"), INTO_FILE),
        **dict.fromkeys(
            ("load", "load_dir", "load_checkpoint", "load_path", "resume_checkpoint", "cont"),
            f"--resume takes no file: {GOES_ON}",
        ),
        **dict.fromkeys(("optimizer", "optim", "momentum"), OPTIMIZER),
        **dict.fromkeys(("scheduler", "step_size", "gamma", "lr_decay", "decay"), RATE_FALLS),
        **dict.fromkeys(
            (
                "output_size",
                "output_units",
                "output_features",
                "num_classes",
                "n_classes",
                "number_of_classes",
                "num_labels",
            ),
            BY_CLASSES,
        ),
        **dict.fromkeys(("train_dir", "valid_dir", "test_dir", "val_dir"), SPLITS),
        **dict.fromkeys(("input_size", "input_units", "in_features"), "it is not needed, since the network says it"),
        **dict.fromkeys(
            ("print_every", "print_in", "log_interval", "verbose"), "it is not needed, since each epoch prints a line"
        ),
        **dict.fromkeys(("validate", "test"), "it is not needed, since test photos are judged when the training ends"),
        **dict.fromkeys(("model", "pretrained_model"), "--arch names the network, such as --arch vgg16"),
        **dict.fromkeys(
            ("pretrained", "freeze"),
            "it is not needed, since networks are pretrained; --fine_tune N lets them learn too",
        ),
        **dict.fromkeys(("top_k", "topk", "image_path", "image"), "it is an option of predict.py"),
        **dict.fromkeys(("criterion", "loss"), "it is not here: the loss is cross-entropy"),
        "save_name": "--save_dir FILE.pth names the checkpoint's file",
        "early_stopping": "--patience N stops when the validation loss was no lower for N epochs",
    },
    with_device=WITH_DEVICE,
    of_values={"resume": GOES_ON},
    of_missing={"data_dir": "the folder of photos, such as flowers"},
    of_surplus="DATA_DIR is one folder; --save_dir says where the checkpoint goes",
)

PREDICT = ForeignNames(
    same={
        **SHARED,
        "images": (
            "image",
            "image_path",
            "image_file",
            "image_dir",
            "img",
            "img_path",
            "input",
            "input_image",
            "input_img",
            "input_path",
            "path_to_image",
            "image_filepath",
            "img_file",
            "pathname",
            "sample_path",
            "filepath",
            "file",
            "path",
            "photo",
            "i",
        ),
        "checkpoint": (
            "checkpoint_path",
            "checkpoint_file",
            "checkpoint_dir",
            "checkpoints",
            "path_to_checkpoint",
            "model_path",
            "model_checkpoint",
            "saved_model",
            "load_checkpoint",
            "load_dir",
            "loaded_model",
            "load_state_file",
            "load_point",
            "check",
            "ckpt",
            "chkpt",
            "cpt",
            "save_dir",
        ),
        "top_k": ("top", "top_n", "top_num", "num_top", "top_k_predictions", "k", "t"),
    },
    hints={
        **dict.fromkeys(
            ("arch", "architecture", "hidden_units", "hidden_size", "learning_rate", "epochs", "epoch", "seed"),
            BY_CHECKPOINT,
        ),
        **dict.fromkeys(("cpu", "no_cuda", "no_gpu"), NO_GPU),
        **dict.fromkeys(("model", "model_name"), "CHECKPOINT is the model, and says its architecture"),
        **dict.fromkeys(("num_workers", "workers", "num_threads", "pin_memory"), NOT_NEEDED),
        "batch_size": "it is not needed, since as many photos at once are answered as is quickest",
        **dict.fromkeys(("show", "display", "show_plot"), "--plot FILE.png draws the answer"),
        **dict.fromkeys(
            ("data_dir", "data", "dir", "test_dir"), "it is not needed, since IMAGE may be a folder of photos"
        ),
        **dict.fromkeys(("threshold", "min_prob"), "--min_probability P says from which probability on one is sure"),
    },
    with_device=WITH_DEVICE,
)
