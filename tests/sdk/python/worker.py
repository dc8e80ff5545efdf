"""`python worker.py <name> [slots] [label=value ...]`: a worker with every workflow of `workflows.py`.

A value of digits becomes an integer label, as the comparators of labels want it.
"""

import sys


def main() -> None:
    # Imported here, because the package starts its listener as a second process that loads this file again and needs
    # none of the workflows.
    from workflows import WORKFLOWS, hatchet

    name, *rest = sys.argv[1:]
    slots = int(rest.pop(0)) if rest and rest[0].isdigit() else 20
    labels: dict[str, str | int] = {}
    for label in rest:
        key, value = label.split("=", 1)
        labels[key] = int(value) if value.isdigit() else value
    hatchet.worker(name, slots=slots, labels=labels, workflows=WORKFLOWS).start()


if __name__ == "__main__":
    main()
