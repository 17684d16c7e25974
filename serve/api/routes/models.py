"""Model list, health checks and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serve.api.routes.schema import FAILURES
from serve.api.state import serving_of
from serve.keys import Key
from serve.metrics import OfModels
from serve.wire.models import ModelCard, ModelList

router = APIRouter()


@router.get("/v1/models", responses=FAILURES, tags=["OpenAI"])
@router.get("/models", include_in_schema=False)
async def list_models(http: Request) -> ModelList:
    """List the served models."""
    return {"object": "list", "data": [one.card for one in serving_of(http).backends.values()]}


@router.get("/v1/models/{name:path}", responses=FAILURES, tags=["OpenAI"])
async def retrieve_model(name: str, http: Request) -> ModelCard:
    """Describe one model."""
    return serving_of(http).find(name).card


@router.get("/healthz", tags=["operation"])
@router.get("/health", include_in_schema=False)
@router.get("/v1/health", include_in_schema=False)
async def healthz() -> dict[str, str]:
    """Report that the process responds."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "Not all are ready."}}, tags=["operation"])
async def readyz(http: Request) -> JSONResponse:
    """Report whether every model accepts requests; which do not, only where no key is needed."""
    serving = serving_of(http)
    not_ready = [name for name, backend in serving.backends.items() if not backend.is_ready]
    status = 503 if not_ready else 200
    content = {"num_not_ready": len(not_ready)} if serving.needs_key else {"not_ready": not_ready}
    return JSONResponse(content, status)


@router.get("/metrics", response_class=Response, responses=FAILURES, tags=["operation"])
async def metrics(http: Request) -> Response:
    """Return the metrics in Prometheus's text format; experiments' to administrators only.

    A key that is restricted to some models gets those of other models left out.
    """
    serving = serving_of(http)
    found = serving.metrics
    key: Key | None = getattr(http.state, "key", None)
    content = generate_latest(
        OfModels(found.registry, serving.backends) if serving.is_restricted else found.registry
    )
    if key is None or key.is_admin:
        content += generate_latest(found.experiments)
    return Response(content, media_type=CONTENT_TYPE_LATEST)
