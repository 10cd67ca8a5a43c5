"""MLflow's UI as `medexp ui` serves it: it opens where runs are, in the mode for training models.

The app of the entry point `mlflow.app`, which `mlflow ui --app-name medexp` finds. MLflow's UI keeps what a user chose in the
browser; of what nobody chose yet the defaults are those of generative models: an experiment shows no run, and an assistant
takes a third of the page. Tables of runs begin with the columns that runs are compared by, a run's charts with losses and
validation, and what was measured once is no chart. What the user chooses later stands.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from mlflow.server.fastapi_app import app as mlflow_app

from medexp.tracking.experiments import TABLE

Message = MutableMapping[str, Any]  # of ASGI, as are those below
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_FIRST_CHOICES = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.telemetry.info.alert.dismissed_v1": "true",  # it is off: medexp.console and the Makefile see to that
}
_SCRIPT = (
    f"<script>({Path(__file__).with_suffix('.js').read_text(encoding='utf-8')})"
    f"({json.dumps(_FIRST_CHOICES)}, {json.dumps(json.dumps(TABLE))})</script>"
).encode()


def create_app() -> App:
    """MLflow's own app, its first page with the script above before any other."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await mlflow_app(scope, receive, send)
            return
        begun: list[Message] = []
        body = bytearray()

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.append(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            page = bytes(body).replace(b"<head>", b"<head>" + _SCRIPT, 1)
            others = [pair for pair in begun[0]["headers"] if pair[0].lower() != b"content-length"]
            await send({**begun[0], "headers": [*others, (b"content-length", str(len(page)).encode())]})
            await send({**message, "body": page})

        # asked for whole: what the browser kept may be MLflow's page without the script
        kept = [
            (key, value) for key, value in scope["headers"] if key not in (b"if-none-match", b"if-modified-since", b"range")
        ]
        await mlflow_app({**scope, "headers": kept}, receive, hold)

    return app
