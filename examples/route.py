"""Route knowledge into a block of units while a network learns, then cut the block out.

python examples/route.py
"""

import torch
from torch import nn

import sluicegate as sg
from sluicegate.tasks.digits import load_images

digits = load_images()  # 8 x 8 pixels, in the package
FORGOTTEN = (0, 1, 2)


def tensors(part):
    images = torch.tensor(part.images, dtype=torch.float32).flatten(1) / digits.white
    return images, torch.tensor(part.labels)


# Any PyTorch module will do. Here: 64 pixels, 128 units, 10 classes.
torch.manual_seed(0)
net = nn.Sequential()
net.add_module("hidden", nn.Linear(64, 128))
net.add_module("act", nn.ReLU())
net.add_module("out", nn.Linear(128, 10))

# 32 of the units are the block "low": only rows with this label train them, and such rows train nothing else.
router = sg.Router(net, {"hidden": {"low": 32}})
optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
router.guard(optimizer)  # weight decay and momentum leave alone what no row may train
images, labels = tensors(digits.train)
for step in range(400):
    rows = torch.randint(len(labels), (64,), generator=torch.Generator().manual_seed(step))
    marked = ["low" if int(y) in FORGOTTEN else "retain" for y in labels[rows]]
    with router(marked):
        nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
    optimizer.step()
    optimizer.zero_grad()


def accuracy(title: str) -> None:
    images, labels = tensors(digits.test)
    right = (net(images).argmax(1) == labels).float()
    low = torch.isin(labels, torch.tensor(FORGOTTEN))
    print(f"{title:>9}: digits 0 to 2 {right[low].mean():4.0%}, the others {right[~low].mean():4.0%}")


accuracy("trained")
cut = router.ablate("low")
router.remove()
print(cut.bake(net))  # for good: the network is smaller
accuracy("cut")
