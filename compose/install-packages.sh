#!/bin/sh
# Makes /opt/venv of hash-pinned packages, without what only building and testing need.  Runs while an image is built.
set -eu
python -m venv /opt/venv
/opt/venv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes --only-binary :all: -r "$1"
/opt/venv/bin/pip uninstall --quiet --yes pip setuptools
cd "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
# Tests and C headers of packages; and Arrow's parts that nothing here asks for: flight, ORC, its own S3.
find . -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
rm -rf pyarrow/include pyarrow/src pyarrow/_flight.* pyarrow/_orc.* pyarrow/_dataset_orc.* pyarrow/_s3fs.* pyarrow/_pyarrow_cpp_tests.*
rm -f pyarrow/libarrow_flight.so* pyarrow/libarrow_python_flight.so* pyarrow/libarrow_s3.so*
find . -name "*.pyx" -o -name "*.pxd" -o -name "*.pxi" | xargs rm -f
/opt/venv/bin/python -c "import pandas, pyarrow.compute, pyarrow.csv, pyarrow.parquet"
