"""Checks Kubernetes manifests as an API server would, with no server: each document against the
schema of its kind, where members that the schema does not have are mistakes.

    manifests.py FILE...

KEDA's kinds are handed to keda.js beside this file. Exits 1 if anything is wrong, and says what.
"""

import json
import pathlib
import subprocess
import sys

import kubernetes_validate
import yaml

# The oldest version that this still has to work on.
KUBERNETES = "1.29"


def problems(document):
    """What is wrong with one document."""
    if document["apiVersion"].startswith("keda.sh/"):
        keda = pathlib.Path(__file__).with_name("keda.js")
        checked = subprocess.run(
            ["node", keda], input=json.dumps(document), capture_output=True, text=True
        )
        return checked.stderr.strip() if checked.returncode else None
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return None


def main():
    """Checks all files, and says what they hold."""
    wrong = 0
    for name in sys.argv[1:]:
        for document in yaml.safe_load_all(pathlib.Path(name).read_text()):
            what = f"{name}: {document['kind']} {document['metadata']['name']}"
            problem = problems(document)
            print(f"{what}: {problem or 'valid'}")
            wrong += problem is not None
    sys.exit(1 if wrong else 0)


main()
