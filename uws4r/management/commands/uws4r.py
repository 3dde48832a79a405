"""``manage.py uws4r``: look at the workers of a running site, close websockets in all of them, find what is wrong."""

import json
from argparse import ArgumentParser
from typing import Any

import redis
from django.core.management.base import BaseCommand, CommandError

from uws4r.attachment import quoted_path, quoted_user
from uws4r.conf import conf
from uws4r.counters import CLOSED, NOT_KEPT, REFUSED
from uws4r.diagnosis import FAILED, WARNING
from uws4r.doctor import Doctor, Options, Step
from uws4r.errors import ConfigurationError
from uws4r.orders import ask
from uws4r.redis_clients import unreachable, where
from uws4r.rfc6455 import KICKED

COLUMNS = (
    "host", "pid", "uptime", "connections", "channels", "queued", "longest_queue", "messages_in", "messages_out",
    "waiting_publishes", "link", "links",
)  # fmt: skip


class Command(BaseCommand):
    help = "Look at the workers of a running site, close websockets in all of them, or find what is wrong."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        status = verbs.add_parser("status", help="figures of each worker: connections, queues, refusals, the link")
        status.add_argument("--json", action="store_true", help="all figures, for programs")
        kick = verbs.add_parser("kick", help="close websockets, by any of these")
        kick.add_argument("--user", action="append", default=[], help="the name of a user")
        kick.add_argument("--session", action="append", default=[], help="the key of a session")
        kick.add_argument("--facility", action="append", default=[], help="what follows WEBSOCKET_URL")
        kick.add_argument("--everybody", action="store_true", help="all websockets of the site")
        kick.add_argument(
            "--code", type=int, default=KICKED, help="the close code: 4000 to 4499 not to come back, 4500 to 4999 to"
        )
        doctor = verbs.add_parser("doctor", help="walk the way of a message, and name what breaks it")
        doctor.add_argument("url", nargs="?", help="of the site, as browsers have it: https://www.example.com/")
        doctor.add_argument("--timeout", type=float, default=5.0, help="seconds for each thing that is asked")
        doctor.add_argument("--idle", type=float, default=0.0, help="seconds for which the websocket is left alone")
        doctor.add_argument("--insecure", action="store_true", help="take any certificate")
        doctor.add_argument("--cookie", action="append", default=[], help="sessionid=…, of a user who may listen")
        doctor.add_argument("--origin", help="of a page of another site; the site's own unless given")
        doctor.add_argument("--json", action="store_true", help="for programs")
        for verb in (status, kick):
            verb.add_argument("--timeout", type=float, default=3.0, help="seconds to wait for the workers' answers")

    def handle(self, *args: Any, verb: str, timeout: float, **options: Any) -> None:
        if verb == "doctor":
            self._doctor(timeout, options)
        elif verb == "status":
            self._status(self._ask(timeout, do="status"), options["json"])
        else:
            self._kick(timeout, options)

    def _ask(self, timeout: float, **order: Any) -> list[dict[str, Any]]:
        try:
            return ask(timeout, **order)
        except TimeoutError as error:
            problem, answers = error.args
            self.stderr.write(self.style.WARNING(problem))
            return answers
        except ConfigurationError as error:
            raise CommandError(str(error)) from None
        except (redis.RedisError, OSError) as error:
            raise CommandError(f"Redis ({where()}; WS4REDIS_CONNECTION) {unreachable(error)}") from None

    def _status(self, workers: list[dict[str, Any]], as_json: bool) -> None:
        workers.sort(key=lambda worker: (worker["host"], worker["pid"]))
        if as_json:
            self.stdout.write(json.dumps(workers, indent=2))
            return
        if not workers:
            self.stdout.write("No worker has a hub: none has served a websocket yet, or they use another Redis.")
            return
        rows = [COLUMNS, *([str(worker[column]) for column in COLUMNS] for worker in workers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self.stdout.write("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
        for kind in (REFUSED, CLOSED, NOT_KEPT):
            counts: dict[str, int] = {}
            for worker in workers:
                for reason, count in worker.get(kind, {}).items():  # a worker may be older than this command
                    counts[reason] = counts.get(reason, 0) + count
            for reason, count in sorted(counts.items(), key=lambda item: -item[1]):
                self.stdout.write(f"{kind} {count:>7}  {reason}")

    def _kick(self, timeout: float, options: dict[str, Any]) -> None:
        if not 4000 <= options["code"] <= 4999 and options["code"] not in (1000, 1008, 1012, 1013):
            raise CommandError("--code must be 4000 to 4999, 1000, 1008, 1012 or 1013")
        whom = {
            "users": list(map(quoted_user, options["user"])),
            "sessions": options["session"],
            "paths": [quoted_path(conf.WEBSOCKET_URL + facility) for facility in options["facility"]],
            "everybody": options["everybody"],
        }
        if not any(whom.values()):
            raise CommandError("whom? --user, --session, --facility or --everybody")
        answers = self._ask(timeout, do="close", code=options["code"], reason="closed by an administrator", **whom)
        self.stdout.write(f"{sum(worker['met'] for worker in answers)} closed, in {len(answers)} workers")

    def _doctor(self, timeout: float, options: dict[str, Any]) -> None:
        for text in (*options["cookie"], options["origin"] or ""):
            if not text.isascii() or not text.isprintable():
                raise CommandError(f"no header can say {text!r}")
        if timeout <= 0:
            raise CommandError("--timeout must be more than 0")
        doctor = Doctor(
            Options(options["url"], timeout, options["idle"], options["insecure"], options["cookie"], options["origin"])
        )
        steps: list[Step] = []
        try:
            for step in doctor.steps():
                steps.append(step)
                if not options["json"]:
                    self._show(step)
        except KeyboardInterrupt:
            raise CommandError("interrupted") from None
        broken = [step.name for step in steps if step.finding.state == FAILED]
        if options["json"]:
            told = [{"step": step.name, **step.finding._asdict()} for step in steps]
            self.stdout.write(json.dumps({"url": options["url"], "ok": not broken, "steps": told}, indent=2))
        if broken:
            raise CommandError(f"broken: {', '.join(dict.fromkeys(broken))}")

    def _show(self, step: Step) -> None:
        finding = step.finding
        style = {FAILED: self.style.ERROR, WARNING: self.style.WARNING}.get(finding.state, self.style.SUCCESS)
        self.stdout.write(f"{style(finding.state.ljust(8))} {step.name}: {finding.seen}")
        for word, text in (("means", finding.means), ("change", finding.change)):
            if text:
                self.stdout.write(f"         {word}: {text}")
        self.stdout.flush()
