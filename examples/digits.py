"""Which handwritten digits look alike? The KL divergence between all pairs of classes.

Fits one Gaussian to each of the ten digits, once with a full covariance and once
with a standard deviation per dimension, and compares every digit with every other
one in a single broadcast call. Prints both 10 x 10 tables and the most confusable
pairs; draws a heat map, ``digits_kl.png``, when matplotlib is installed.

Run it from anywhere: ``python examples/digits.py``
"""

from pathlib import Path

import numpy as np

import gausskl as gk

DATA = Path(__file__).with_name("digits.csv")  # source and licence: README.md, beside it
PICTURE = Path("digits_kl.png")


def fit_classes():
    """Return mean (10, d), covariance (10, d, d) and std (10, d) of the ten digits."""
    table = np.loadtxt(DATA, delimiter=",")
    label, features = table[:, 0], table[:, 1:]
    classes = [features[label == digit] for digit in range(10)]
    mean = np.stack([x.mean(axis=0) for x in classes])
    cov = np.stack([np.cov(x, rowvar=False) for x in classes])
    std = np.stack([x.std(axis=0, ddof=1) for x in classes])
    return mean, cov, std


def kl_tables(mean, cov, std):
    """Return {title: table}, where table[i, j] is KL(digit i || digit j)."""
    # p has shape (10, 1) and q has shape (10,): together they broadcast to (10, 10).
    p = gk.Gaussian(mean[:, None, :], cov=cov[:, None])
    q = gk.Gaussian(mean, cov=cov)
    full = gk.kl_divergence(p, q)

    p = gk.Gaussian(mean[:, None, :], std=std[:, None])
    q = gk.Gaussian(mean, std=std)
    diagonal = gk.kl_divergence(p, q)
    return {"full covariance": full, "diagonal covariance": diagonal}


def print_table(title, kl):
    print(f"KL(from || to) in nats, {title}\n")
    print("from \\ to" + "".join(f"{digit:7d}" for digit in range(10)))
    for digit, row in enumerate(kl):
        print(f"{digit:9d}" + "".join(f"{value:7.1f}" for value in row))


def print_closest_pairs(kl):
    both_ways = kl + kl.T  # KL is not symmetric; the sum of the two directions is
    first, second = np.triu_indices(10, k=1)  # every pair once
    closest = np.argsort(both_ways[first, second])[:2]
    pairs = zip(first[closest], second[closest], strict=True)
    nearest, next_one = (f"{i} and {j} ({both_ways[i, j]:.1f} nats)" for i, j in pairs)
    print(f"\nMost confusable, both directions added: {nearest}, then {next_one}.\n")


def draw(tables):
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError:
        print(f"matplotlib is not installed, so {PICTURE} was not drawn.")
        return
    off_diagonal = ~np.eye(10, dtype=bool)  # log(0) has no colour
    values = np.stack(list(tables.values()))[:, off_diagonal]
    colours = LogNorm(values.min(), values.max())  # one scale for both panels

    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, (title, kl) in zip(panels, tables.items(), strict=True):
        image = panel.imshow(np.where(off_diagonal, kl, np.nan), norm=colours)
        panel.set(title=title, xlabel="to digit (q)", ylabel="from digit (p)")
        panel.set(xticks=range(10), yticks=range(10))
    figure.suptitle("KL divergence between handwritten digits")
    bar = figure.colorbar(image, ax=panels, label="KL(p || q) in nats, log scale", format="%d")
    bar.set_ticks([5, 10, 20, 50, 100], minor=False)
    bar.minorticks_off()
    figure.savefig(PICTURE, dpi=150)
    print(f"The heat map is in {PICTURE}.")


def main():
    tables = kl_tables(*fit_classes())
    for title, kl in tables.items():
        print_table(title, kl)
        print_closest_pairs(kl)
    draw(tables)


if __name__ == "__main__":
    main()
