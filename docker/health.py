"""Exit status 0 where `compress doctor` finds all that a recipe needs, else 1 and what lacks.

Called with the recipe: python docker/health.py recipes/ddnet_struct60_asp.yaml
"""

import json
import subprocess
import sys


def main(recipe: str) -> int:
    """Print a line for each step that lacks something."""
    command = [sys.executable, "-m", "compress", "doctor", "--json", recipe]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr.strip())
        return 1
    steps = [step for one in json.loads(done.stdout)["recipes"] for step in one["steps"]]
    lacking = [f"{step['where']}: {step['missing']}" for step in steps if step["missing"]]
    print("\n".join(lacking) or "every step has what it needs")
    return int(bool(lacking))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
