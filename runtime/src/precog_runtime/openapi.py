"""The OpenAPI document of `serve`: what may be asked, and all that is answered. tests/test_openapi.py checks both."""

from __future__ import annotations

from typing import Any

from precog_runtime import __version__

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
SECONDS: Schema = {"type": "number", "minimum": 0}
BOOLEAN: Schema = {"type": "boolean"}


def _object(**properties: Schema) -> Schema:
    """Return the schema of an object that has exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _by_name(value: Schema) -> Schema:
    return {"type": "object", "additionalProperties": value}


def _nullable(value: Schema) -> Schema:
    return {**value, "type": [value["type"], "null"]}


def _answer(told: str, schema: Schema) -> Schema:
    return {"description": told, "content": {"application/json": {"schema": schema}}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


NOT_HTTP = _answer("The request is not valid HTTP.", _reference("Error"))
SCHEMAS: dict[str, Schema] = {
    "Question": {
        "type": "object",
        "properties": {
            "timestamp": {
                "description": "When the hour begins: ISO 8601 text (UTC without an offset), or seconds since 1970. "
                "Now, if it is left out or null. It has to be near the present: max_past_s, max_future_s.",
                "type": ["string", "number", "null"],
                "examples": ["2026-11-23T21:05:00Z"],
            },
            "assets": {
                "description": "Names, in upper or lower case. All assets, if it is left out. What is not one of them "
                "is refused, and the others are answered; at most max_assets are looked at.",
                "type": "array",
                "minItems": 1,
                "items": {},
                "examples": [["btc", "eth"]],
            },
        },
        "additionalProperties": False,
    },
    "Answer": _object(
        timestamp=_nullable({**TEXT, "description": "When the hour begins, UTC; null if it is refused."}),
        predictions={**_by_name(NUMBER), "description": "The price in an hour, USD, by asset."},
        intervals={
            **_by_name({"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}),
            "description": "The lowest and the highest price within the hour, USD, by asset.",
        },
        age_s={**_by_name(SECONDS), "description": "How old the newest price is that was used, by asset."},
        price_time={**_by_name(TEXT), "description": "The second of the newest price that was used, UTC, by asset."},
        models={**_by_name(TEXT), "description": "The name of the model, by asset."},
        degraded={**_by_name(TEXT), "description": "Why an answer is not what it is on a good day, by asset."},
        refused={**_by_name(TEXT), "description": "Why there is no answer, by asset; under '', of the whole request."},
    ),
    "Error": _object(error=TEXT),
    "Health": _object(status={"const": "ok"}, version=TEXT),
    "Readiness": _object(
        ready={**BOOLEAN, "description": "Whether every asset can be answered, and the service is not drained."},
        draining={**BOOLEAN, "description": "Whether the service is asked to get no more requests, or ends."},
        age_s={
            **_by_name(_nullable(SECONDS)),
            "description": "Age of the newest price; null before the first.",
        },
        trouble={**TEXT, "description": "Why the service is not ready though it has prices; empty if it is."},
        model={**TEXT, "description": "The name of the model."},
        version=TEXT,
    ),
    "Figures": _object(**{name: _nullable(NUMBER) for name in ("current", "average", "max", "min", "p95")}),
    "Summary": _object(
        every_s={**SECONDS, "description": "From sample to sample."},
        figures={
            **_by_name(_reference("Figures")),
            "description": "By name, over the latest 120 samples: ratios, bytes, bytes per second. Null: not known.",
        },
    ),
}


def document() -> Schema:
    """Return the document, OpenAPI 3.1."""
    readiness = _reference("Readiness")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "precog-runtime serve",
            "version": __version__,
            "description": "Forecasts of the next hour's prices. There is no authentication: let only those reach it "
            "who may ask. A request has receive_s seconds to arrive.",
        },
        "paths": {
            "/predict": {
                "post": {
                    "operationId": "predict",
                    "summary": "Forecast the hour that begins at a timestamp.",
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": _reference("Question")}},
                    },
                    "responses": {
                        "200": _answer("At least one asset is answered.", _reference("Answer")),
                        "400": _answer(
                            "The body is not a JSON object, has an unknown key, or the request is not valid HTTP.",
                            _reference("Error"),
                        ),
                        "413": {
                            "description": "The body has more than 64 KiB.",
                            "content": {"text/plain": {"schema": TEXT}},
                        },
                        "422": _answer("Nothing that is asked for can be answered by anyone.", _reference("Answer")),
                        "503": _answer("There are no prices that are new enough.", _reference("Answer")),
                    },
                }
            },
            "/healthz": _get("healthz", "Tell that the server runs.", {"200": ("It runs.", _reference("Health"))}),
            "/readyz": _get(
                "readyz",
                "Tell whether to send requests here.",
                {
                    "200": ("Every asset can be answered.", readiness),
                    "404": ("The service is drained.", readiness),
                    "503": ("An asset has no price that is new enough.", readiness),
                },
            ),
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Metrics as Prometheus scrapes them.",
                    "responses": {
                        "200": {"description": "All metrics.", "content": {"text/plain": {"schema": TEXT}}},
                        "400": NOT_HTTP,
                    },
                }
            },
            "/monitor": _get(
                "monitor",
                "The monitor's summary of the host and of the process.",
                {
                    "200": ("Each figure now, and over the latest samples.", _reference("Summary")),
                    "404": ("The monitor is off.", _reference("Error")),
                },
            ),
            "/openapi.json": _get("openapi", "This document.", {"200": ("The document.", {"type": "object"})}),
        },
        "components": {"schemas": SCHEMAS},
    }


def _get(name: str, told: str, answers: dict[str, tuple[str, Schema]]) -> Schema:
    """Return a path that is read, whose answers are JSON."""
    responses = {status: _answer(*answer) for status, answer in answers.items()}
    responses["400"] = NOT_HTTP
    return {"get": {"operationId": name, "summary": told, "responses": responses}}
