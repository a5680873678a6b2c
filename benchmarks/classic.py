"""The textbook flow, as others write it: the frozen backbone runs again in every epoch. Run by hand.

    TORCH_HOME=... python benchmarks/classic.py flowers --arch squeezenet1_1 --epochs 5

What train.py is compared with, by benchmarks/compare.py; nothing of train.py's is used, and nothing is slowed down.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FEATURES = {"squeezenet1_1": 512, "densenet121": 1024, "vgg16": 25088}


def load_data(root: Path, split: str, steps: list, workers: int) -> DataLoader:
    """Return the loader of a split, with the usual transforms of PIL images."""
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    photos = datasets.ImageFolder(root / split, transform)
    return DataLoader(photos, batch_size=64, shuffle=split == "train", num_workers=workers)


def build_model(arch: str, pretrained: bool, classes: int) -> nn.Module:
    """Put a new classifier on a frozen torchvision model."""
    model = models.get_model(arch, weights="DEFAULT" if pretrained else None)
    model.requires_grad_(False)
    head = [nn.Linear(FEATURES[arch], 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, classes)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if arch == "squeezenet1_1" else []
    model.classifier = nn.Sequential(*pool, *head)
    return model


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader) -> float:
    """Return the accuracy in percent."""
    model.eval()
    right = sum((model(images).argmax(dim=1) == labels).sum().item() for images, labels in loader)
    return 100 * right / len(loader.dataset)


def train_one_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> None:
    """Take a step a batch, backbone and all."""
    model.eval()  # the backbone's batch norm must not drift
    model.classifier.train()
    for images, labels in loader:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    """Train, and print the best validation accuracy and the last test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--arch", choices=FEATURES, default="squeezenet1_1")
    parser.add_argument("--weights", choices=("DEFAULT", "none"), default="DEFAULT")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    augmented = [
        transforms.RandomRotation(30),
        transforms.RandomResizedCrop(224, scale=(0.4, 1.0)),
        transforms.RandomHorizontalFlip(),
    ]
    plain = [transforms.Resize(256), transforms.CenterCrop(224)]
    train = load_data(options.data_dir, "train", augmented, options.workers)
    valid, test = (load_data(options.data_dir, split, plain, options.workers) for split in ("valid", "test"))
    model = build_model(options.arch, options.weights == "DEFAULT", len(train.dataset.classes))
    optimizer = torch.optim.Adam(model.classifier.parameters(), lr=0.001)
    best = 0.0
    for epoch in range(1, options.epochs + 1):
        train_one_epoch(model, train, optimizer)
        accuracy = evaluate(model, valid)
        best = max(best, accuracy)
        print(f"epoch {epoch}   validation accuracy {accuracy:.2f}%", flush=True)
    print(f"best validation accuracy {best:.2f}%   test accuracy {evaluate(model, test):.2f}%")


if __name__ == "__main__":
    main()
