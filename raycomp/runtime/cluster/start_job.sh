#!/bin/sh
# Runs a submitted job on the head node, with the Python of the Ray that runs there. This Python need not be
# on the PATH: Ray may have been started from an environment that is not activated.
#
# `submit` sends this script as a constant. Nothing that a user wrote becomes part of a command.

# The parent process is Ray's. Its memory map names the files of its environment.
library=$(sed -n 's|^[^/]*\(/.*/ray/_raylet\.so\)$|\1|p' "/proc/$PPID/maps" 2>/dev/null | head -n 1)
prefix=${library%/lib*/python*/*-packages/ray/_raylet.so}

python=
for candidate in "$prefix/bin/python" "$prefix/bin/python3" python3 python; do
    if "$candidate" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("ray") is None)' 2>/dev/null
    then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Error: No Python on the head node can import ray: neither that of the running Ray nor python3 or" \
        "python on its PATH. Start Ray from an environment that has raycomp's packages." >&2
    exit 2
fi

# Names to import, and the packages that have them where the names differ.
missing=$("$python" - <<'CHECK'
import importlib.util
import sys

packages = {
    "datasets": "", "jinja2": "", "numpy": "", "obstore": "", "pandas": "", "plotly": "", "pyarrow": "",
    "pydantic": "", "ray": "", "rich": "", "safetensors": "", "scipy": "", "sklearn": "scikit-learn",
    "tensorboardX": "", "torch": "", "transformers": "", "typer": "", "raycomp": "",
}
sys.path.insert(0, "")
missing = [packages[name] or name for name in packages if importlib.util.find_spec(name) is None]
if sys.version_info < (3, 11):
    missing.insert(0, "Python 3.11 (it has %d.%d)" % sys.version_info[:2])
print(", ".join(missing))
CHECK
)
if [ -n "$missing" ]; then
    echo "Error: The Python of the cluster's Ray, $python, lacks: $missing. Install the missing packages in" \
        "its environment on every node, or use an image that has them (cluster/README.md)." >&2
    exit 2
fi

exec "$python" -m raycomp.cli.main run-request
