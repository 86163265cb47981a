"""Verdicts per second when scoring with a service that takes 100 ms per reply. Prints JSON.

    python -m benchmarks.scoring --judge gemini --in-flight 16

The real client library sends requests to a loopback server in a separate process. The measurement includes throttling,
writing to the ledger and parsing replies. With 100 ms per reply and 16 requests in flight, the upper limit is 160 per
second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from core.judging import scorer
from core.judging.judge import Item
from core.judging.judges import build
from core.judging.ledger import Ledger
from core.judging.order import JudgeSettings, Limits

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--judge", choices=("gemini", "openai"), default="gemini")
    parser.add_argument("--verdicts", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds per reply")
    args = parser.parse_args()
    command = [sys.executable, "-m", "tests.judging.server", "--delay", str(args.delay)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        url += "/v1" if args.judge == "openai" else ""
        judge = build(JudgeSettings(args.judge, "a-model", base_url=url, key="a-key"))
        items = [Item(f"What is {i}?", "", str(i), f"It is {i}.") for i in range(args.verdicts)]
        tasks, progress = scorer.plan(judge, items), scorer.ScoringProgress()
        warmup, tasks = tasks[: args.in_flight], tasks[args.in_flight :]
        with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder), judge.spec) as ledger:
            limits, stop = Limits(args.in_flight), threading.Event()
            scorer.score(judge, warmup, ledger, limits, stop, scorer.ScoringProgress())
            start = time.perf_counter()
            scorer.score(judge, tasks, ledger, limits, stop, progress)
            seconds = time.perf_counter() - start
        server.terminate()
    report = {**vars(args), "verdicts": progress.done, "seconds": seconds}
    print(json.dumps({**report, "verdicts_per_s": progress.done / seconds}, indent=2))


if __name__ == "__main__":
    main()
