"""``python keep_messages.py nvcc ... -o OBJECT``: runs nvcc and keeps what it says in OBJECT.log, for the tests.

Prints it as well, but for ptxas's figures of every kernel.
"""

import re
import subprocess
import sys

# Of `ptxas -v`. Its advice has a number: "ptxas info : (C7510) Potential Performance Loss: ...".
FIGURES = re.compile(r"ptxas info +: (?!\(C\d+\))|    \d+ bytes stack frame")


def main() -> int:
    command = sys.argv[1:]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
    with open(command[command.index("-o") + 1] + ".log", "w") as log:
        log.write(done.stderr)
    sys.stderr.writelines(line for line in done.stderr.splitlines(keepends=True) if not FIGURES.match(line))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
