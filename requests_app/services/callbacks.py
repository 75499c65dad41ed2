"""Clients and agents are told of each new status of their requests, where they gave an address."""

from __future__ import annotations

import json
import logging

from requests_app import opendsr, outgoing, vault
from requests_app.models import ApiClient, ApiRequest
from requests_app.services import agent_requests, api_requests, tries

logger = logging.getLogger(__name__)

FINAL = (
    *(api_requests.COMPLETED, api_requests.CANCELLED),
    *(agent_requests.FULFILLED, agent_requests.DENIED, agent_requests.REVOKED),
)


def send_callbacks() -> int:
    """Tell of each new status, to OpenDSR clients signed; returns how many calls were taken.

    Tries are claimed (`tries`). Sealed cases have no addresses left.
    """
    done = 0
    waiting = ApiRequest.objects.filter(tries.due(), case__vault_items__name="api/callbacks")
    waiting = waiting.filter(client__revoked_at=None).exclude(told_status__in=FINAL)
    if not opendsr.is_set_up():
        waiting = waiting.filter(client__role=ApiClient.Role.AGENT)
    for row in waiting.select_related("case", "client").order_by("id"):
        status = _status(row)
        if status == row.told_status:
            continue
        untold = ApiRequest.objects.filter(pk=row.pk, told_status=row.told_status)
        if not tries.claim(untold, tries=row.tries):
            continue
        try:
            for url in vault.get(row.case, "api/callbacks"):
                _call_back(row, url)
        except (outgoing.OutgoingError, opendsr.OpenDsrError, vault.VaultError) as problem:
            logger.warning("Callback of request %s failed (%s).", row.pk, type(problem).__name__)
        else:
            ApiRequest.objects.filter(pk=row.pk).update(
                told_status=status, tries=0, next_try_at=None
            )
            done += 1
    return done


def _status(row: ApiRequest) -> str:
    if row.client.role == ApiClient.Role.AGENT:
        return agent_requests.status_word(row)
    return api_requests.status_of(row.case)


def _call_back(row: ApiRequest, url: str) -> None:
    headers = {"content-type": "application/json"}
    if row.client.role == ApiClient.Role.AGENT:
        body = json.dumps(agent_requests.status_content(row)).encode()
    else:
        body = json.dumps({**api_requests.status_content(row), "status_callback_url": url}).encode()
        headers |= opendsr.signed_headers(body)
    answer = outgoing.call(
        "POST", url, hosts=row.client.callback_hosts, content=body, headers=headers
    )
    if not 200 <= answer.status < 300:
        raise outgoing.OutgoingError(f"The client answered with status {answer.status}.")
