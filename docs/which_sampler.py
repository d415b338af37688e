"""The figure of docs/samplers.md that leads to a sampler: `python -m docs.which_sampler` draws it.

The questions are those of the page's recommendations. The curves are read from the table of fitted grids
there (three runs of digits_vp, the columns of the log-SNR grid), so that figure and page cannot differ.
"""

import pathlib
import re

PAGE = pathlib.Path(__file__).with_name("samplers.md")
PICTURE = pathlib.Path(__file__).parent / "pictures" / "which_sampler.png"

# (question, answer, --sampler and what goes with it, network evaluations of a sample)
CHOICES = (
    (
        "Do you need a latent, a gradient\nor a likelihood?",
        "ode",
        "--rtol 1e-5 --atol 1e-5",
        "100 to 500",
    ),
    (
        "Does the network have a learned\nvariance on a noise schedule?",
        "ancestral",
        "--steps 100",
        "100",
    ),
    (
        "Do you repeat a published figure\nof score_sde?",
        "song",
        "--steps 1000 --together",
        "1,000 or 2,000",
    ),
    (
        "Do you give a tolerance instead of\na number of steps?",
        "adaptive",
        "--rtol 1e-3 --atol 1e-3",
        "25 to 150",
    ),
    ("Should new noise correct errors\nof the score?", "sde_dpmpp", "--steps 50", "20 to 100"),
    ("Is your budget below 15\nevaluations?", "unipc", "--steps 8", "5 to 15"),
)
OTHERWISE = ("dpmpp_2m", "--steps 20", "15 to 50")


def errors(text: str) -> dict[str, dict[int, float]]:
    """Sampler -> {evaluations: error}, the mean of the three runs on the log-SNR grid."""
    found: dict[str, dict[int, float]] = {}
    for name, n, runs in re.findall(
        r"^\| `(\w+)` \| (\d+) \| ([\d.]+(?: / [\d.]+)+) \|", text, re.M
    ):
        values = [float(value) for value in runs.split(" / ")]
        found.setdefault(name, {})[int(n)] = sum(values) / len(values)
    return found


def draw() -> None:
    """Draw the questions and the curves to `PICTURE`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 6.4), width_ratios=(1.75, 1), layout="constrained"
    )
    left.set(xlim=(0, 10), ylim=(-0.45, len(CHOICES) + 0.6))
    left.axis("off")
    question = {"boxstyle": "round,pad=0.45", "fc": "#eef1fb", "ec": "#3f51b5"}
    answer = {"boxstyle": "round,pad=0.45", "fc": "#e6f4ea", "ec": "#2e7d32"}
    arrow = {"arrowstyle": "-|>", "color": "#555555", "shrinkA": 0, "shrinkB": 0}
    for i, (asked, name, options, cost) in enumerate(CHOICES):
        y = len(CHOICES) - i
        left.text(2.1, y, asked, ha="center", va="center", fontsize=9.5, bbox=question)
        left.annotate("", (5.15, y), (4.25, y), arrowprops=arrow)
        left.text(4.7, y + 0.08, "yes", ha="center", va="bottom", fontsize=9)
        left.text(
            5.3, y + 0.13, name, va="center", fontsize=10.5, weight="bold", family="monospace"
        )
        left.text(5.3, y - 0.16, options, va="center", fontsize=8.5, family="monospace")
        left.text(9.95, y, cost, ha="right", va="center", fontsize=9)
        left.annotate("", (2.1, y - 0.67), (2.1, y - 0.33), arrowprops=arrow)
        left.text(2.2, y - 0.5, "no", va="center", fontsize=9)
    name, options, cost = OTHERWISE
    left.text(2.1, 0, f"{name}\n{options}", ha="center", va="center", fontsize=10.5, weight="bold",
              family="monospace", bbox=answer)  # fmt: skip
    left.text(9.95, 0, cost, ha="right", va="center", fontsize=9)
    left.text(5.3, 0, "the first choice", va="center", fontsize=9.5)
    top = len(CHOICES) + 0.5
    left.text(5.3, top, "sampler", va="center", fontsize=9, style="italic")
    left.text(9.95, top, "evaluations", ha="right", va="center", fontsize=9, style="italic")

    for name, curve in errors(PAGE.read_text(encoding="utf-8")).items():
        right.plot(list(curve), list(curve.values()), marker="o", label=name)
    right.set(xscale="log", yscale="log", xlabel="network evaluations of a sample",
              ylabel="error to the probability flow", title="Digits, mean of three runs")  # fmt: skip
    right.set_xticks([5, 10, 20], ["5", "10", "20"])
    right.set_yticks([0.02, 0.05, 0.1, 0.2, 0.3], ["0.02", "0.05", "0.1", "0.2", "0.3"])
    right.minorticks_off()
    right.grid(alpha=0.3)
    right.legend(frameon=False)
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    draw()
