"""Runs benchmarks by name, or lists them.

python -m benchmarks                    # the list
python -m benchmarks clustering         # one, in full
python -m benchmarks --quick            # a quick run of all that need nothing but a checkout
"""

import argparse
import subprocess
import sys

from benchmarks.catalogue import BENCHMARKS


def main() -> None:
    """Runs what is asked for, one after the other; ends at the first that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="the quick mode")
    options, rest = parser.parse_known_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}")
    if not options.names and not options.quick:
        for benchmark in BENCHMARKS.values():
            needs = f" Needs {benchmark.needs}." if benchmark.needs else ""
            print(f"{benchmark.name:28s}{benchmark.title}: {benchmark.shows}.{needs}")
        return
    names = options.names or [benchmark.name for benchmark in BENCHMARKS.values() if not benchmark.needs]
    quick = ["--quick"] if options.quick else []
    for name in names:
        print(f"# {name}", flush=True)
        subprocess.run([sys.executable, "-m", BENCHMARKS[name].module, *quick, *rest], check=True)


if __name__ == "__main__":
    main()
