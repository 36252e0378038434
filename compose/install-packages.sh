#!/bin/sh
# Installs hash-pinned packages into /opt/venv and removes files that are needed only for builds and
# tests.  Runs during an image build.
set -eu
python -m venv /opt/venv
/opt/venv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes --only-binary :all: -r "$1"
/opt/venv/bin/pip uninstall --quiet --yes pip setuptools
cd "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
# Remove tests and C headers of packages, and unused parts of Arrow: Flight, ORC, S3.
find . -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
rm -rf pyarrow/include pyarrow/src pyarrow/_flight.* pyarrow/_orc.* pyarrow/_dataset_orc.* pyarrow/_s3fs.* pyarrow/_pyarrow_cpp_tests.*
rm -f pyarrow/libarrow_flight.so* pyarrow/libarrow_python_flight.so* pyarrow/libarrow_s3.so*
find . -name "*.pyx" -o -name "*.pxd" -o -name "*.pxi" | xargs rm -f
# Fail the build if a removed file is needed after all.
/opt/venv/bin/python -c "import pandas, pyarrow.compute, pyarrow.csv, pyarrow.parquet"
