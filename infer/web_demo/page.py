"""The page: one viewer, which draws by itself (page.html, page.css and scripts), and gradio's controls beneath it.

Whatever happens on the page comes to a handler as an event with values from a stranger's browser; what it returns is
all that the viewer shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from pix2seq.errors import UserError
from pix2seq.infer.web_demo.session import AS_FOUND, MOST_SAMPLES, Models, Session, Sessions, Wishes, open_image
from pix2seq.infer.web_demo.worker import Worker

if TYPE_CHECKING:
    from pix2seq.api import Model
    from pix2seq.config import InferCFG


def read(name: str) -> str:
    """The text of a file beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


SCRIPT = "".join(map(read, ("draw.js", "tokens.js", "page.js")))
FONTS = dict(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # none is fetched
CSS = read("page.css")
THEME = gr.themes.Base(**FONTS)


class Page:
    """Handlers of the page's events. `settings` has its limits, and where its controls begin."""

    def __init__(self, models: Models, settings: InferCFG, tasks: tuple[str, ...]) -> None:
        self.models, self.settings, self.tasks = models, settings, tasks
        self.sessions = Sessions(settings.max_sessions)
        self.worker, self.numbers = Worker(), count()

    def build(self) -> gr.Blocks:
        """The page, not served yet."""
        first = self.models[self.models.first]
        with gr.Blocks(title="Pix2Seq", analytics_enabled=False) as page:
            viewer = gr.HTML(
                html_template=read("page.html"),
                js_on_load=SCRIPT,
                apply_default_css=False,
                elem_id="viewer",
                limit=self.settings.max_megabytes,
            )
            with gr.Row(elem_classes="controls"):
                tasks = gr.CheckboxGroup(
                    label="Tasks", elem_id="tasks", scale=2, min_width=320, **self._tasks_of(first)
                )
                weights = gr.Dropdown(
                    list(self.models.names),
                    value=self.models.first,
                    label="Weights",
                    elem_id="weights",
                    min_width=200,
                )
                drawn = gr.Dropdown(
                    label="What is in a drawn box", elem_id="class", min_width=200, **self._classes_of(first)
                )
            with gr.Row(elem_classes="controls"):
                own = first.predictor.settings
                threshold = gr.Slider(0, 1, own.score_threshold, step=0.01, label="Lowest score", elem_id="threshold")
                samples = gr.Slider(1, MOST_SAMPLES, 1, step=1, label="Samples that vote", elem_id="samples")
                nucleus = gr.Slider(0.05, 1, own.top_p, step=0.05, label="Nucleus of samples", elem_id="nucleus")
            about = gr.Markdown(first.predictor.about, elem_id="about", sanitize_html=True)
            wishes = [weights, tasks, threshold, nucleus, samples]
            self._connect(viewer, wishes, drawn)
            weights.input(self.choose_weights, [weights], [tasks, drawn, about], **SERVING).then(
                self.look_again, wishes, viewer, **SERVING
            )
            page.unload(self.close)
        return page

    def _tasks_of(self, model: Model) -> dict[str, Any]:
        return {"choices": list(model.tasks), "value": [name for name in model.tasks if name in self.tasks]}

    def _classes_of(self, model: Model) -> dict[str, Any]:
        return {"choices": [AS_FOUND, *model.predictor.class_names.values()], "value": AS_FOUND}

    def _connect(self, viewer: gr.HTML, wishes: list[gr.Component], drawn: gr.Dropdown) -> None:
        """The events of the viewer, and of the controls that change what it shows."""
        viewer.photo(self.open_photo, wishes, viewer, **SERVING)
        viewer.point(self.point, wishes, viewer, **SERVING)
        viewer.box(self.draw_box, [*wishes, drawn], viewer, **SERVING)
        for control in wishes[1:]:
            control.input(self.look_again, wishes, viewer, trigger_mode="always_last", **SERVING)

    def open_photo(self, event: gr.EventData, request: gr.Request, *wishes: Any) -> Iterator[dict]:
        """An image file came, as base64."""
        name, data = values_of(event, "name", "data")

        def act(wished: Wishes, model: Model) -> Session:
            limits = self.settings.max_megabytes, self.settings.max_megapixels
            self.sessions[request.session_hash] = session = open_image(name, data, *limits)
            return session

        yield from self._shown(wishes, act)

    def point(self, event: gr.EventData, request: gr.Request, *wishes: Any) -> Iterator[dict]:
        """A click on the image."""
        x, y = values_of(event, "x", "y")

        def act(wished: Wishes, model: Model) -> Session:
            session = self.sessions[request.session_hash]
            session.point_at(x, y, wished, model)
            return session

        yield from self._shown(wishes, act)

    def draw_box(self, event: gr.EventData, request: gr.Request, *wishes: Any) -> Iterator[dict]:
        """A box was drawn on the image."""
        *wishes, class_name = wishes
        box = values_of(event, "x1", "y1", "x2", "y2")

        def act(wished: Wishes, model: Model) -> Session:
            session = self.sessions[request.session_hash]
            session.point_with(box, class_name, wished, model)
            return session

        yield from self._shown(wishes, act)

    def look_again(self, request: gr.Request, *wishes: Any) -> Iterator[dict]:
        """A control was moved; without an image there is nothing to do yet."""
        if request.session_hash not in self.sessions:
            yield gr.skip()
            return
        yield from self._shown(wishes, lambda wished, model: self.sessions[request.session_hash])

    def choose_weights(self, name: str) -> list[dict]:
        """Other weights, which may know other tasks and classes."""
        try:
            model = self.models[name]
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        changes = (self._tasks_of(model), self._classes_of(model))
        return [*(gr.update(**change) for change in changes), model.predictor.about]

    def close(self, request: gr.Request) -> None:
        """The tab is gone."""
        self.sessions.forget(request.session_hash)

    def _shown(self, wishes: tuple, act: Callable[[Wishes, Model], Session]) -> Iterator[dict]:
        """What the viewer shows after `act`, as far as it is known, and in the end all of it; a sentence if the user
        asked for something that cannot be."""

        def look(show: Callable[[dict], None]) -> dict:
            wished = Wishes(*wishes)
            model = self.models[wished.weights]
            return act(wished, model).scene(wished, model, show)

        try:
            for scene in self.worker.told(look):
                yield self._as_value(**scene)
        except UserError as error:
            yield {"error": str(error), "number": next(self.numbers)}

    def _as_value(self, picture: str, **rest: Any) -> dict:
        """A scene for the viewer. All but its picture is a text: of other values gradio sends what has changed, and
        spoils lists that have become shorter. The same scene twice is two events."""
        return {"picture": picture, "rest": json.dumps(rest), "number": next(self.numbers)}


# One computation at a time, whoever asks; none can be called by name from elsewhere.
SERVING = dict(concurrency_id="model", concurrency_limit=1, show_progress="minimal", api_visibility="private")


def values_of(event: gr.EventData, *names: str) -> list:
    """Values of an event by their names; None for those that are not there."""
    data = event._data if isinstance(event._data, dict) else {}
    return [data.get(name) for name in names]
