"""The demo: one whole case, done as the people involved would do it.

Every step goes through HTTP (forms filled in, buttons pressed), the mail outbox, the broker and a
separate worker process; the figures of the summary are read from the evidence bundle that the
auditor downloads. Nothing here touches the database or calls the engine.
"""

from __future__ import annotations

import base64
import email
import email.policy
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from rtbf.stack import BASE_DIR, Stack, start_stack
from rtbf.visitor import Visitor
from workers import corpus

RUN_SECONDS = 600
WAIT_SECONDS = 60
Say = Callable[[str], object]


class DemoError(RuntimeError):
    """The demo could not go on; the message says where it stopped."""


def run_demo(folder: Path, *, person: int, started: float, say: Say) -> dict[str, Any]:
    """Run one case in an installation under `folder`; returns and stores the summary.

    The installation is a fresh one unless DATABASE_URL names a database. `started`: Unix time at
    which the set-up began. Raises DemoError, StackError or VisitError.
    """
    if person not in corpus.ERASABLE:
        raise DemoError(f"Choose a person from 0 to {len(corpus.ERASABLE) - 1}, not {person}.")
    if "DATABASE_URL" not in os.environ:  # keys and database belong together: both new, or neither
        shutil.rmtree(folder, ignore_errors=True)
    say("Starting database, Redis, workers, beat, signer and web server …")
    with start_stack(folder) as stack:
        setup = time.time() - started
        with closing(Story(stack, say)) as story:
            reference, access_code = story.file_request(corpus.people()[person])
            story.decide(reference, corpus.people()[person])
            run_state = story.review(reference, story.wait_for_run(reference))
            story.answer(reference)
            bundle = story.fetch_bundle(reference, folder)
            story.read_status(reference, access_code)
        trust = folder / "trust.txt"
        trust.write_text(stack.manage("export_trust"))
    say("Checking the bundle with the offline verifier …")
    verifier = verify_bundle(bundle, trust)
    say(verifier.stdout.strip())
    summary = summarise(
        folder, reference, run_state, bundle=bundle, trust=trust, verifier_exit=verifier.returncode
    )
    summary["seconds"] |= {"setup": round(setup, 1), "total": round(time.time() - started, 1)}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def verify_bundle(bundle: Path, trust: Path) -> subprocess.CompletedProcess[str]:
    """Run the offline verifier as an auditor would: a process of its own, two files."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "requests_app.verifier", str(bundle), "--trust", str(trust)],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )


class Story:
    """The people of one case at their browsers, on one running installation."""

    def __init__(self, stack: Stack, say: Say) -> None:
        self.stack = stack
        self.say = say
        self.staff = {
            login["role"]: login
            for login in json.loads(stack.manage("create_staff", "--demo", "--json"))["staff"]
        }
        self.windows: dict[str, Visitor] = {}

    def close(self) -> None:
        for window in self.windows.values():
            window.close()

    def at_new_window(self) -> Visitor:
        """A window of somebody without an account; closed with the others."""
        window = Visitor(self.stack.url)
        self.windows[f"visitor {len(self.windows)}"] = window
        return window

    def at(self, role: str) -> Visitor:
        """The browser window of the member of staff with this role, logged in."""
        if role not in self.windows:
            window = Visitor(self.stack.url)
            window.open("/app/")  # leads to the log-in page
            login = self.staff[role]
            window.press("Log in", {"login": login["username"], "password": login["password"]})
            self.windows[role] = window
        return self.windows[role]

    def look(self, role: str, path: str, *, reason: str) -> Visitor:
        """Open a page; where personal data is masked, say why it is needed and go on."""
        window = self.at(role)
        window.open(path)
        if window.path.endswith("/reveal"):
            window.press("Show personal data", {"reason": reason})
        return window

    def press_as(self, role: str, button: str) -> Visitor:
        """Press a button that needs a fresh log-in, and enter the password if it is asked for."""
        window = self.at(role)
        window.press(button)
        if window.path == "/accounts/reauthenticate/":
            window.press("Confirm", {"password": self.staff[role]["password"]})
        return window

    def file_request(self, person: corpus.Person) -> tuple[str, str]:
        """The person sends the form and confirms the mailbox: (reference, access code)."""
        self.say("A customer files an erasure request and confirms the e-mail address …")
        window = self.at_new_window()
        window.open("/erasure/new/who")
        window.press("Continue", {"who": "myself"})
        address = f"person-{person.index}@mailbox.example"
        window.press("Continue", {"name": person.name})
        window.press("Continue", {"email": address})
        window.press("Continue", {"systems": ["model"]})
        window.press("Continue")
        window.press("Send erasure request")
        reference = window.find(r'id="reference">([^<]+)<')
        access_code = window.find(r'id="access-code">([^<]+)<')
        code = self.mailed_code(address)
        window.open("/erasure/confirm")
        window.press("Confirm", {"reference": reference, "code": code})
        return reference, access_code

    def mailed_code(self, address: str) -> str:
        """The confirmation code, read in the person's mailbox."""
        outbox = self.stack.var_dir / "outbox"
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            for file in sorted(outbox.glob("*.eml")):
                mail = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
                if address not in str(mail["To"]):
                    continue
                body = mail.get_body()
                text = body.get_content() if body is not None else ""
                if found := re.search(r"code is (\S+)", text):
                    return found[1]
            time.sleep(0.2)
        raise DemoError(
            f"No confirmation code arrived within {WAIT_SECONDS} s:\n"
            + self.stack.log_tail("legal")
        )

    def decide(self, reference: str, person: corpus.Person) -> None:
        """The officer prepares and proposes, the approver approves."""
        self.say(f"{reference}: the case officer checks identity, attaches facts, proposes …")
        case = f"/app/cases/{reference}"
        officer = self.look("officer", f"{case}/identity", reason="identity")
        officer.press("Record identity check", {"method": "mailbox"})
        self.look("officer", f"{case}/facts", reason="decision")
        lines = [f"{fact.trained[0]} | {fact.answer}" for fact in person.facts]
        officer.press("Save facts", {"facts": "\n".join(lines)})
        officer.open(f"{case}/decision")
        items = re.findall(r'name="(item_\d+)"', officer.page)
        officer.press(
            "Continue",
            {
                "outcome": "granted",
                "grounds": ["17-1-a"],
                "reasoning": "The contract has ended and the data is no longer needed.",
                **dict.fromkeys(items, "erase"),
            },
        )
        officer.press("Propose decision")
        self.say(f"{reference}: a second person approves; the worker takes over …")
        self.look("approver", f"{case}/approval", reason="approval")
        self.press_as("approver", "Approve decision")

    def run_path(self, reference: str) -> str:
        officer = self.at("officer")
        officer.open(f"/app/cases/{reference}")
        found = re.findall(r'data-run="([0-9a-f-]{36})" data-number="(\d+)"', officer.page)
        if not found:
            raise DemoError(f"{reference} has no erasure run.")
        return f"/app/runs/{max(found, key=lambda row: int(row[1]))[0]}"

    def wait_for_run(self, reference: str, *, seconds: float = RUN_SECONDS) -> str:
        """Watch the run page as the officer would, further attempts included; returns the state of
        the last run when it has ended."""
        officer, path = self.at("officer"), self.run_path(reference)
        until, shown = time.monotonic() + seconds, ""
        while time.monotonic() < until:
            officer.open(f"{path}/progress")
            state = officer.find(r'data-state="(\w+)"')
            phase = officer.find(r'data-phase="(\w*)"')
            if phase != shown:
                self.say(f"  {state}: {phase}")
                shown = phase
            if state not in {"queued", "running"}:
                if (latest := self.run_path(reference)) == path:
                    return state
                self.say("  the thresholds were not met: the next attempt begins")
                path = latest
            if dead := self.stack.dead():
                raise DemoError(f"{dead[0]} stopped:\n{self.stack.log_tail(dead[0])}")
            time.sleep(0.5)
        raise DemoError(
            f"The run did not end within {seconds:.0f} s:\n" + self.stack.log_tail("model")
        )

    def review(self, reference: str, run_state: str) -> str:
        """Where the evidence decided nothing or fell short, the officer runs again while that is
        possible, then accepts it as it is; returns the state of the last run."""
        officer, again = self.at("officer"), "Run again on demo"
        while 'data-status="evidence_review"' in officer.open(f"/app/cases/{reference}"):
            officer.open(f"/app/cases/{reference}/evidence-review")
            if again not in officer.page:
                self.say(f"{reference}: the evidence is accepted as it is; the answer says so …")
                officer.press("Accept the evidence as it is")
                return run_state
            self.say(f"{reference}: the evidence did not decide; the officer runs again …")
            officer.press(again)
            run_state = self.wait_for_run(reference)
        return run_state

    def answer(self, reference: str) -> None:
        """The officer sends the answer; what did not hold is said in the letter."""
        self.say(f"{reference}: the answer goes out …")
        self.look("officer", f"/app/cases/{reference}/answer", reason="answer")
        self.press_as("officer", "Send the answer and complete the case")

    def fetch_bundle(self, reference: str, folder: Path) -> Path:
        """The auditor prepares the bundle, waits for the signed checkpoint and downloads it."""
        self.say(f"{reference}: the auditor asks for the evidence bundle …")
        auditor = self.at("auditor")
        auditor.open(f"/app/cases/{reference}/exports")
        self.press_as("auditor", "Prepare bundle")
        until = time.monotonic() + WAIT_SECONDS
        while 'data-state="ready"' not in auditor.open(f"/app/cases/{reference}/exports"):
            if time.monotonic() > until:
                raise DemoError(
                    "No checkpoint was signed:\n" + self.stack.log_tail("signer", lines=5)
                )
            time.sleep(0.5)
        auditor.open(f"/app/cases/{reference}/exports/bundle")
        path = folder / f"{reference}-bundle.zip"
        path.write_bytes(auditor.response.content)
        return path

    def read_status(self, reference: str, access_code: str) -> None:
        """The person looks up the status page with reference and access code."""
        window = self.at_new_window()
        window.open("/status")
        window.press("Continue", {"reference": reference, "access_code": access_code})
        if reference not in window.page:
            raise DemoError(f"The status page of {reference} did not open.")


def summarise(
    folder: Path,
    reference: str,
    run_state: str,
    *,
    bundle: Path,
    trust: Path,
    verifier_exit: int,
) -> dict[str, Any]:
    """The summary, from what the bundle says; decimal strings become numbers."""
    with zipfile.ZipFile(io.BytesIO(bundle.read_bytes())) as archive:
        figures = json.loads(archive.read("eval/metrics.json"))
        statement = json.loads(archive.read("statement.dsse.json"))
    probes = figures["probes"]
    kept = probes["others_kept"]["more"]
    others = {key: float(kept[f"accuracy_{key}"]) for key in ("before", "after")}
    erased = {
        kind: {
            key: float(probes[f"recall_{kind}"][key])
            for key in ("before", "after", "control", "control_upper95")
        }
        for kind in ("trained", "unseen")
    }
    seconds = {phase: float(spent) for phase, spent in figures["seconds"].items()}
    return {
        "case": reference,
        "run_state": run_state,
        "attempt": int(figures["attempt"]["number"]),
        "verdict": figures["verdict"],
        "level": figures["level"],
        "model": {"name": figures["model"]["name"], "sha256": figures["model"]["sha256"]},
        "adapter": adapter_of(folder, statement),
        "erased": erased,
        "others": others,
        "bundle": str(bundle),
        "trust": str(trust),
        "verifier_exit": verifier_exit,
        "seconds": seconds,
        "bars": bars(erased, others, verifier_exit),
    }


def adapter_of(folder: Path, envelope: dict[str, Any]) -> dict[str, str]:
    """Where the adapter that the signed statement is about lies, and its digest."""
    payload = json.loads(base64.b64decode(envelope["payload"]))
    digests = {each["name"]: each["digest"]["sha256"] for each in payload["subject"]}
    sha256 = str(digests["adapter_model.safetensors"])
    path = next((folder / "adapters").glob(f"{sha256[:32]}-*/adapter_model.safetensors"))
    return {"path": str(path), "sha256": sha256}


def bars(
    erased: dict[str, dict[str, float]], others: dict[str, float], verifier_exit: int
) -> list[dict[str, Any]]:
    """What the demo must show, each with its figure and limit."""
    unseen = erased["unseen"]
    kept = others["after"] / others["before"]
    return [
        {
            "name": "erased person on unseen phrasings, at most the control's 95% upper bound",
            "value": unseen["after"],
            "limit": unseen["control_upper95"],
            "holds": unseen["after"] <= unseen["control_upper95"],
        },
        {
            "name": "others' accuracy kept through the gate, at least",
            "value": round(kept, 4),
            "limit": 0.98,
            "holds": kept >= 0.98,
        },
        {
            "name": "offline verifier's exit code",
            "value": verifier_exit,
            "limit": 0,
            "holds": verifier_exit == 0,
        },
    ]
