"""Pictures of a space as PNG: points on two principal components and by t-SNE, coloured by month, year and event.

Everything is drawn on figures of their own with the Agg canvas: nothing here asks for a display or keeps global state.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from fsae.runtime.arrays import F64
from fsae.runtime.pictures.written import check_picture, write_picture

# One turn of hue in Oklab (Ottosson 2020), dark in January and light in July: December is next to January.
MONTH_COLOURS = (
    *("#2552aa", "#0068a3", "#008694", "#00a27c", "#63b55b", "#b3b934"),
    *("#e7ac2a", "#fa924e", "#ed7473", "#c75b90", "#964ca1", "#6248aa"),
)
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TSNE_MODES = 50  # leading principal components that t-SNE sees (van der Maaten and Hinton 2008, J. Mach. Learn. Res. 9)
PERPLEXITY = 30.0
DPI = 150


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points (point, number) of a space, with what they are coloured by."""

    title: str
    points: F64
    month: NDArray[np.int64]  # 0 to 11; empty where points are not of one month
    year: F64
    marks: Mapping[str, NDArray[np.bool_]]  # events that fill points, and which points lie in them
    rings: Mapping[str, NDArray[np.bool_]]  # events that are drawn around points
    labels: Sequence[str] = ()  # text beside each point


@dataclass(frozen=True, kw_only=True)
class Map:
    """A cloud flattened to (point, 2), with the names of its two axes."""

    cloud: Cloud
    places: F64
    axes: tuple[str, str]


def draw_pictures(name: str, monthly: Cloud, whole: Cloud | None, annual: Cloud, out: Path, *, seed: int) -> None:
    """Write six pictures into `out`: pca- and tsne-, by month, year and events.

    Beside the months stand the months with their climatology, if there are any, or the annual means.
    """
    for stem, method, words in (
        ("pca", principal_components, "on principal components"),
        ("tsne", neighbour_map, "by t-SNE (near points are alike, axes and wide gaps mean nothing)"),
    ):
        months, years = method(monthly, seed), method(annual, seed)
        seasons = [months] if whole is None else [months, method(whole, seed)]
        title = f"{name}: latents {words}; colour: "
        draw_picture(title + "month", by_month, seasons, out / f"{stem}-month.png")
        draw_picture(title + "year", by_year, [months, years], out / f"{stem}-year.png")
        draw_picture(title + "events", by_event, [months, years], out / f"{stem}-events.png")


def check_pictures(out: Path) -> None:
    """Raise OutputError if a file that we did not draw has the name of one of the six pictures in `out`."""
    for stem in ("pca", "tsne"):
        for colours in ("month", "year", "events"):
            check_picture(out / f"{stem}-{colours}.png", True, {})


def draw_picture(title: str, draw: Callable[[Figure, Sequence[Map]], None], maps: Sequence[Map], path: Path) -> None:
    """Write one PNG with the maps side by side; OutputError if a file that we did not draw has its name."""
    figure = Figure(figsize=(1 + 6 * len(maps), 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    draw(figure, maps)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    write_picture(path, content.getvalue(), True)


def principal_components(cloud: Cloud, seed: int) -> Map:
    """The cloud on its two leading principal components; nothing is random, `seed` is not used."""
    fitted = PCA(2, svd_solver="full").fit(cloud.points)
    shares = 100 * fitted.explained_variance_ratio_
    axes = (f"PC 1 ({shares[0]:.0f} % of the variance)", f"PC 2 ({shares[1]:.0f} %)")
    return Map(cloud=cloud, places=fitted.transform(cloud.points), axes=axes)


def neighbour_map(cloud: Cloud, seed: int) -> Map:
    """The cloud by t-SNE of its leading principal components: who is near whom; distances and axes mean nothing."""
    count = len(cloud.points)
    modes = min(TSNE_MODES, *cloud.points.shape)
    leading = PCA(modes, svd_solver="full").fit_transform(cloud.points)
    places = TSNE(2, perplexity=min(PERPLEXITY, count / 4), init="pca", random_state=seed).fit_transform(leading)
    return Map(cloud=cloud, places=places.astype(np.float64), axes=("t-SNE 1", "t-SNE 2"))


def by_month(figure: Figure, maps: Sequence[Map]) -> None:
    """Draw maps coloured by month, December beside January."""
    scale = ScalarMappable(BoundaryNorm(np.arange(-0.5, 12), 12), ListedColormap(MONTH_COLOURS))
    panels = _panels(figure, maps)
    for axes, drawn in zip(panels, maps, strict=True):
        x, y = drawn.places.T
        axes.scatter(x, y, c=scale.to_rgba(drawn.cloud.month), s=16, linewidths=0)
    bar = figure.colorbar(scale, ax=panels, ticks=range(12))
    bar.ax.set_yticklabels(MONTHS)
    bar.ax.tick_params(which="both", length=0)


def by_year(figure: Figure, maps: Sequence[Map]) -> None:
    """Draw maps coloured by year, all on one scale."""
    years = np.concatenate([drawn.cloud.year for drawn in maps])
    scale = ScalarMappable(Normalize(years.min(), years.max()), "viridis")
    panels = _panels(figure, maps)
    for axes, drawn in zip(panels, maps, strict=True):
        x, y = drawn.places.T
        axes.scatter(x, y, c=scale.to_rgba(drawn.cloud.year), s=70 if drawn.cloud.labels else 16, linewidths=0)
        _label(axes, drawn)
    figure.colorbar(scale, ax=panels, label="year")


def by_event(figure: Figure, maps: Sequence[Map]) -> None:
    """Draw maps with the points of each event on top of the others, in its colour or with a ring."""
    panels = _panels(figure, maps)
    for axes, drawn in zip(panels, maps, strict=True):
        large = 4 if drawn.cloud.labels else 1
        x, y = drawn.places.T
        axes.scatter(x, y, c="0.8", s=12 * large, linewidths=0, label="other")
        for number, (name, inside) in enumerate(drawn.cloud.marks.items()):
            if inside.any():
                axes.scatter(x[inside], y[inside], c=f"C{number}", s=22 * large, linewidths=0, label=name)
        for name, inside in drawn.cloud.rings.items():
            if inside.any():
                axes.scatter(
                    x[inside], y[inside], c="none", edgecolors="black", s=26 * large, linewidths=0.8, label=name
                )
        _label(axes, drawn)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)


def _panels(figure: Figure, maps: Sequence[Map]) -> list[Axes]:
    """One labelled panel for each map, side by side."""
    panels = list(figure.subplots(1, len(maps), squeeze=False)[0])
    for axes, drawn in zip(panels, maps, strict=True):
        axes.set(title=drawn.cloud.title, xlabel=drawn.axes[0], ylabel=drawn.axes[1])
        if drawn.axes[0].startswith("t-SNE"):
            axes.set(xticks=[], yticks=[])
    return panels


def _label(axes: Axes, drawn: Map) -> None:
    """Write the text of each point beside it."""
    for text, place in zip(drawn.cloud.labels, drawn.places, strict=False):
        axes.annotate(text, place, xytext=(5, 3), textcoords="offset points", fontsize=7)
