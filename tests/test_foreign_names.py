"""What people write who know another solution of the exercise: each command line means what it says, or is refused.

The options of 147 public solutions were read and counted: of their 249 shapes, these are the frequent ones, and those
that are easily misread.
"""

from pathlib import Path

import pytest

import predict
import train
from flower_classifier.base.messages import InputError
from flower_classifier.config import foreign_names
from flower_classifier.config.predict_options import PredictConfig
from flower_classifier.config.train_options import TrainConfig

PHOTO = (Path("a.jpg"),)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Run in a folder that holds what the command lines name."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "ck.pth", "cat_to_name.json", "out/checkpoint.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "flowers").mkdir()


def asked(line, program="train.py"):
    """Return the options that a command line gives, by their names."""
    settings = TrainConfig if program == "train.py" else PredictConfig
    doc = train.__doc__ if program == "train.py" else predict.__doc__
    return settings.parse(program, doc, line.split())


TRAINED = [
    # what is written, and what it means
    ("flowers", {}),
    ("flowers --save_dir out", {"save_dir": Path("out")}),
    ("flowers --save_directory out", {"save_dir": Path("out")}),
    ("flowers --save_path out", {"save_dir": Path("out")}),
    ("flowers --arch vgg13 --gpu", {"arch": "vgg13", "gpu": True}),
    ("flowers --architecture vgg13", {"arch": "vgg13"}),
    ("flowers -arch vgg13 -gpu", {"arch": "vgg13", "gpu": True}),
    ("flowers --learning_rate 0.01 --hidden_units 512 --epochs 20", {"learning_rate": 0.01, "hidden_units": (512,)}),
    ("flowers --lr 0.01", {"learning_rate": 0.01}),
    ("flowers -lr 0.01", {"learning_rate": 0.01}),
    ("flowers --learn_rate 0.01", {"learning_rate": 0.01}),
    ("flowers --learning-rate 0.01", {"learning_rate": 0.01}),
    ("flowers --hidden_layer1 120", {"hidden_units": (120,)}),
    ("flowers --hidden_units 512 256", {"hidden_units": (512, 256)}),
    ("flowers --hidden_size 120", {"hidden_units": (120,)}),
    ("flowers --epoch 3", {"epochs": 3}),
    ("flowers --num_epochs 3", {"epochs": 3}),
    ("flowers -e 3", {"epochs": 3}),
    ("flowers --batch 32", {"batch_size": 32}),
    ("flowers --drop_out 0.5", {"dropout": 0.5}),
    ("flowers --dropout_rate 0.5", {"dropout": 0.5}),
    ("flowers ---epochs 3", {"epochs": 3}),
    ("--data_dir flowers", {}),
    ("--data_dir=flowers --epochs 3", {"epochs": 3}),
    ("--data_directory flowers", {}),
    ("--data-dir flowers", {}),
    ("--data_path flowers", {}),
    ("--dataset flowers", {}),
    ("---data_dir flowers", {}),
    ("flowers --device cuda", {"gpu": True}),
    ("flowers --device gpu", {"gpu": True}),
    ("flowers --device mps", {"gpu": True}),
    ("flowers --device cuda:0", {"gpu": True}),
    ("flowers --gpu cuda:0", {"gpu": True}),
    ("flowers --device cpu", {"gpu": False}),
    ("flowers --gpu gpu", {"gpu": True}),
    ("flowers --gpu cuda", {"gpu": True}),
    ("flowers --gpu True", {"gpu": True}),
    ("flowers --gpu y", {"gpu": True}),
    ("flowers --gpu 1", {"gpu": True}),
    ("flowers --gpu 0", {"gpu": False}),
    ("flowers --gpu no", {"gpu": False}),
    ("flowers -GPU", {"gpu": True}),
    ("flowers --GPU", {"gpu": True}),
    ("flowers --use_gpu", {"gpu": True}),
    ("--gpu flowers", {"gpu": True}),
    ("flowers --category_name cat_to_name.json", {"category_names": Path("cat_to_name.json")}),
    ("flowers --val_split 0.1", {"valid_split": 0.1}),
    ("flowers --seed 3", {"seed": 3}),
    ("flowers -hu 512", {"hidden_units": (512,)}),
    ("flowers --hidden_1 512", {"hidden_units": (512,)}),
    ("flowers --learnrate 0.01", {"learning_rate": 0.01}),
    ("flowers --savedir out", {"save_dir": Path("out")}),
    ("flowers --save_to out", {"save_dir": Path("out")}),
    ("flowers --categories_json cat_to_name.json", {"category_names": Path("cat_to_name.json")}),
    ("flowers --dev gpu", {"gpu": True}),
    ("flowers --gpu_cpu cpu", {"gpu": False}),
    ("flowers —epochs 3 –batch_size 8", {"epochs": 3, "batch_size": 8}),
]
PREDICTED = [
    ("a.jpg ck.pth", {}),
    ("a.jpg ck.pth --top_k 3", {"top_k": 3}),
    ("a.jpg ck.pth --topk 3", {"top_k": 3}),
    ("a.jpg ck.pth --topK 3", {"top_k": 3}),
    ("a.jpg ck.pth ---top_k 3", {"top_k": 3}),
    ("a.jpg ck.pth ----top_k 3", {"top_k": 3}),
    ("a.jpg ck.pth --top-k 3", {"top_k": 3}),
    ("a.jpg ck.pth -top_k 3", {"top_k": 3}),
    ("a.jpg ck.pth -k 3", {"top_k": 3}),
    ("--image_path a.jpg ck.pth", {}),
    ("--image_path a.jpg --checkpoint ck.pth", {}),
    ("--image a.jpg --checkpoint ck.pth", {}),
    ("--img a.jpg --checkpoint_path ck.pth", {}),
    ("--img_path a.jpg --model_path ck.pth", {}),
    ("--input a.jpg --checkpoint ck.pth", {}),
    ("--image_path=a.jpg --checkpoint=ck.pth", {}),
    ("--checkpoint ck.pth --image_path a.jpg --topk 3", {"top_k": 3}),
    ("--input a.jpg ck.pth", {}),
    ("a.jpg --checkpoint ck.pth", {}),
    ("a.jpg --checkpoint_path ck.pth --gpu", {"gpu": True}),
    ("--image a.jpg --image b.jpg ck.pth", {"images": (Path("a.jpg"), Path("b.jpg"))}),
    ("a.jpg b.jpg --checkpoint ck.pth", {"images": (Path("a.jpg"), Path("b.jpg"))}),
    ("a.jpg out", {"checkpoint": Path("out/checkpoint.pth")}),
    ("a.jpg --save_dir out", {"checkpoint": Path("out/checkpoint.pth")}),
    ("a.jpg ck.pth --category_names cat_to_name.json", {"category_names": Path("cat_to_name.json")}),
    ("a.jpg ck.pth --cat_names cat_to_name.json", {"category_names": Path("cat_to_name.json")}),
    ("a.jpg ck.pth --class_names cat_to_name.json", {"category_names": Path("cat_to_name.json")}),
    ("a.jpg ck.pth --device cuda", {"gpu": True}),
    ("a.jpg ck.pth --device cpu", {"gpu": False}),
    ("a.jpg ck.pth --gpu gpu", {"gpu": True}),
    ("a.jpg ck.pth -GPU", {"gpu": True}),
    ("a.jpg ck.pth —top_k 3", {"top_k": 3}),
    ("a.jpg ck.pth -t 3", {"top_k": 3}),
    ("a.jpg ck.pth --json_path cat_to_name.json", {"category_names": Path("cat_to_name.json")}),
    ("--ImagePath a.jpg --cpt ck.pth", {}),
    ("-i a.jpg ck.pth", {}),
]


@pytest.mark.parametrize(
    ("program", "line", "meant"),
    [("train.py", line, meant) for line, meant in TRAINED] + [("predict.py", line, meant) for line, meant in PREDICTED],
)
def test_what_other_solutions_write_means_what_it_says(program, line, meant):
    always = {"data_dir": Path("flowers")} if program == "train.py" else {"images": PHOTO, "checkpoint": Path("ck.pth")}
    config = asked(line, program)
    assert {name: getattr(config, name) for name in always | meant} == always | meant


REFUSED = [
    ("flowers --num_workers 4", "'--num_workers': it is not needed, since all processor cores read photos"),
    ("flowers --pin_memory", "'--pin_memory': it is not needed, since all processor cores read photos"),
    ("flowers --model vgg16", "'--model': --arch names the network, such as --arch vgg16"),
    ("flowers --hidden_layer2 120", "'--hidden_layer2': --hidden_units 512 256 makes two hidden layers"),
    ("flowers --hidden_layers 120", "'--hidden_layers': --hidden_units 512 256 makes two hidden layers"),
    ("flowers --print_every 40", "'--print_every': it is not needed, since each epoch prints a line"),
    ("flowers --optimizer adam", "'--optimizer': it is not here: the optimizer is AdamW"),
    ("flowers --momentum 0.9", "'--momentum': it is not here: the optimizer is AdamW"),
    ("flowers --output_size 102", "'--output_size': it is not needed, since it is the number of class folders"),
    ("flowers --checkpoint ck.pth", "'--checkpoint': --save_dir says where the checkpoint goes, --resume goes on"),
    ("flowers --checkpoint_path ck.pth", "'--checkpoint_path': --save_dir says where the checkpoint goes"),
    ("flowers --train_dir a", "'--train_dir': it is not needed, since DATA_DIR holds train/, valid/ and test/"),
    ("flowers --top_k 3", "'--top_k': it is an option of predict.py"),
    ("flowers --early_stopping", "'--early_stopping': --patience N stops"),
    ("flowers --resume ck.pth", "--resume takes no value, and 'ck.pth' follows it: it goes on with the run that lies"),
    ("--resume ck.pth flowers", "--resume takes no value, and 'ck.pth' follows it: it goes on with the run that lies"),
    ("flowers --resume=ck.pth", "--resume takes no value, and has 'ck.pth': it goes on with the run that lies"),
    ("flowers --learning_rte 1", "unknown argument '--learning_rte': did you mean --learning_rate?"),
    ("flowers --epchs 1", "unknown argument '--epchs': did you mean --epochs?"),
    ("flowers --whatever 1", "unknown argument '--whatever'\n"),
    ("flowers --device tpu", "--device must be cuda, gpu, mps or cpu, not 'tpu'"),
    ("flowers --gpu=tpu", "--gpu must be cuda, gpu, mps or cpu, not 'tpu'"),
    ("flowers --numworkers 4", "'--numworkers': it is not needed, since all processor cores read photos"),
    ("flowers --device", "--device must be cuda, gpu, mps or cpu, not ''"),
    ("flowers --data_dir", "argument --data_dir: expected one argument"),
    ("flowers --data_dir flowers", "with --data_dir flowers, 'flowers' is one too many: give each argument once"),
    ("--data_dir flowers --data_directory out", "--data_dir flowers and --data_directory out are the same argument"),
    ("flowers --lr 1 --learning_rate 2", "--lr 1 and --learning_rate 2 are the same option: give it once"),
    ("flowers --device cpu --gpu", "--device cpu and --gpu contradict each other: give one of them"),
    ("flowers other", "unknown argument 'other': DATA_DIR is one folder; --save_dir says where the checkpoint goes"),
    ("--gpu", "the following arguments are required: DATA_DIR: the folder of photos, such as flowers"),
    ("flowers --hidden_units 512 --hidden_units 256", "are the same option: --hidden_units 512 256 gives both"),
    ("flowers --hidden_1 512 --hidden_units 256 128", "same option: --hidden_units 512 256 128 gives both"),
    ("flowers --hidden_units 512 --hidden_units 512", "same option: --hidden_units 512 512 gives both"),
    ("flowers --hidden_units 1,024", "'1,024' may be one number: write 1024 for that"),
    ("predict.py --image= ck.pth", "argument IMAGE: "),
    ("flowers --hl2 120", "'--hl2': --hidden_units 512 256 makes two hidden layers"),
    ("flowers --save_dir out --save_name my", "'--save_name': --save_dir FILE.pth names the checkpoint's file"),
    ("flowers --cpu", "'--cpu': it is not needed, since the processor computes, unless --gpu is given"),
    ("flowers --test", "'--test': it is not needed, since test photos are judged when the training ends"),
    ("predict.py a.jpg ck.pth --dir flowers", "'--dir': it is not needed, since IMAGE may be a folder of photos"),
    (
        "predict.py a.jpg ck.pth --batch_size 4",
        "'--batch_size': it is not needed, since as many photos at once are answered",
    ),
    ("predict.py a.jpg ck.pth --model vgg16", "'--model': CHECKPOINT is the model, and says its architecture"),
    ("predict.py a.jpg ck.pth --arch vgg16", "'--arch': it is not needed, since the checkpoint says it"),
    ("predict.py a.jpg ck.pth --num_workers 2", "'--num_workers': it is not needed"),
    ("predict.py a.jpg ck.pth --top_k 3 --topk 4", "--top_k 3 and --topk 4 are the same option: give it once"),
    ("predict.py a.jpg ck.pth --checkpoint out", "with --checkpoint out, 'ck.pth' is one too many"),
    ("predict.py a.jpg ck.pth --image b.jpg", "with --image b.jpg, 'ck.pth' is one too many"),
    ("predict.py --image a.jpg", "the following arguments are required: CHECKPOINT"),
]


@pytest.mark.parametrize(("line", "said"), REFUSED)
def test_what_means_nothing_here_is_refused_in_a_line_that_says_what_to_do(line, said, capsys):
    program, _, rest = line.partition(" ") if line.startswith("predict.py") else ("train.py", "", line)
    with pytest.raises(SystemExit) as stop:
        asked(rest, program)
    out, err = capsys.readouterr()
    assert (stop.value.code, out, len(err.splitlines())) == (2, "", 2)
    assert said in err


def test_class_names_given_as_labels_are_refused_with_where_they_belong():
    with pytest.raises(InputError, match="with --evaluate; --category_names takes what people call classes"):
        asked("a.jpg ck.pth --labels cat_to_name.json", "predict.py")


@pytest.mark.parametrize("names", [foreign_names.TRAIN, foreign_names.PREDICT])
def test_no_name_means_two_things(names):
    meanings = [(other, option) for option, others in names.same.items() for other in others] + [*names.hints.items()]
    by_name = {}
    for name, meaning in meanings:
        assert by_name.setdefault(name.replace("_", ""), meaning) == meaning


def test_the_same_twice_is_no_mistake_and_of_one_name_the_last_counts():
    assert asked("flowers --lr 0.5 --learning_rate 0.5").learning_rate == 0.5
    assert asked("--data_dir flowers --data_dir flowers").data_dir == Path("flowers")
    assert asked("flowers --epochs 3 --epochs 5").epochs == 5


def test_a_quoted_home_folder_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = asked("~/flowers --weights ~/ck.pth --save_dir=~/out")
    assert (config.data_dir, config.save_dir) == (tmp_path / "flowers", tmp_path / "out")
    assert config.weights == str(tmp_path / "ck.pth")
    assert asked("~nobody-is-called-so").data_dir == Path("~nobody-is-called-so")


@pytest.mark.parametrize(("line", "is_on"), [("--device 0", True), ("--gpu 0", False), ("--gpu=1", True)])
def test_a_number_behind_a_device_is_a_gpus_and_behind_gpu_says_yes_or_no(line, is_on):
    assert asked(f"flowers {line}").gpu is is_on


def test_a_value_of_gpu_that_may_be_a_folder_is_asked_about(capsys, tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(SystemExit):
        asked("--gpu 1 ck.pth", "predict.py")
    assert "--gpu 1: 1 is a path here, too: write --gpu=1, or ./1" in capsys.readouterr().err
    assert asked("--gpu ./1 ck.pth", "predict.py").images == (Path("./1"),)
