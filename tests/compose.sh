#!/usr/bin/env bash
# Test docker-compose.yml with real containers: build, start, drop files, kill and restart each
# container under load, scale, stop and start again, and compare the published rows with the bucket.
# Takes less than 12 minutes once the images are built, and removes all its containers and volumes.
#
# Requires curl, docker-compose 1.29 or newer (or compose v2), and a Docker Engine that `docker info`
# finds.  ENGINE_UP may be a command that starts an engine.  Without an engine only the files are
# checked, and a line says so.  COMPOSE may be another compose command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
started_at=$SECONDS

if ! docker info >/dev/null 2>&1 && [ -n "${ENGINE_UP:-}" ]; then
    echo "starting an engine: $ENGINE_UP"
    bash -c "$ENGINE_UP"
fi
if [ -z "${COMPOSE:-}" ]; then
    if docker compose version >/dev/null 2>&1; then COMPOSE="docker compose"; else COMPOSE=docker-compose; fi
fi
if ! docker info >/dev/null 2>&1; then
    echo "compose.sh: no Docker Engine is available: checking only the files, starting no containers"
    if $COMPOSE version >/dev/null 2>&1; then $COMPOSE config >/dev/null; fi
    . local/python.sh
    "$python" -m local.install --dev
    exec .venv/bin/python -m pytest -q tests/unit/test_compose_files.py
fi

# -- tools -----------------------------------------------------------------------------------------
project=rowdrop-test-$$
export COMPOSE_PROJECT_NAME=$project COMPOSE_HTTP_TIMEOUT=180
export API_PORT=${API_PORT:-18080} MINIO_PORT=${MINIO_PORT:-19000} FLOWER_PORT=${FLOWER_PORT:-15555}
export COMPOSE_PROFILES=flower
api=http://127.0.0.1:$API_PORT
logs=$(mktemp -d) && : >"$logs/no.env"
compose() { $COMPOSE --env-file "$logs/no.env" "$@"; } # without the checkout's own .env
quiet() { "$@" >>"$logs/compose.log" 2>&1; }
passed=0
ok() { passed=$((passed + 1)); printf '%4d s  ok  %s\n' $((SECONDS - started_at)) "$1"; }
failed() {
    echo "compose.sh: FAILED: $1" >&2
    compose ps >&2 || true
    compose logs --tail 25 >&2 || true
    tail -20 "$logs/compose.log" >&2
    exit 1
}
finish() {
    [ -z "${load:-}" ] || wait "$load" 2>/dev/null || true
    compose down -v --remove-orphans -t 5 >/dev/null 2>&1 || true
    rm -rf "$logs"
}
trap finish EXIT
until_() { # SECONDS WHAT COMMAND…: retry the command until it succeeds, fail after the timeout
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $until ] || failed "$what"
        sleep 0.5
    done
}
get() { curl -fsS -m 10 "$api$1" 2>/dev/null; }
status() { curl -s -m 10 -o /dev/null -w '%{http_code}' "$@"; }
has_rows() { [ "$(get /data | grep -o '"user_id"' | wc -l)" -eq "$1" ]; }
container() { compose ps -q "$1" | head -1; }
started() { docker inspect -f '{{.State.StartedAt}} {{.State.Running}}' "$1"; }
came_back() { [ "$(started "$1")" != "$2" ] && [[ "$(started "$1")" == *true ]]; }
python_() { # SERVICE ARGUMENT…: run Python in a new container of this service, with its credentials
    local service=$1
    shift
    compose run --rm --no-deps -T "$service" python "$@"
}
is_consistent() { compose run --rm --no-deps -T worker rowdrop check >"$logs/check" 2>&1; }
drop() { python_ load - "$@" <tests/compose_drops.py; }
healthy() { # all containers; -x matches the whole word, because "unhealthy" contains it
    ! docker ps -q -f "label=com.docker.compose.project=$project" | xargs docker inspect -f '{{.State.Health.Status}}' | grep -qvx healthy
}
memory() {
    docker ps -q -f "label=com.docker.compose.project=$project" | xargs docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' |
        sed "s/$project[-_]//" | awk '{printf "        %-16s %s\n", $1, $2}' | sort
}

# -- up --------------------------------------------------------------------------------------------
services=(minio redis listener worker worker-bulk publisher flower api)
quiet compose build || failed "building"
up=$SECONDS
quiet compose up -d || failed "up"
until_ 120 "GET /data shows the 20 rows of the sample" has_rows 20
ok "time from up -d to the 20 sample rows in GET /data: $((SECONDS - up)) s"
docker images --format '        {{.Repository}}:{{.Tag}} {{.Size}}' | grep 'rowdrop-'

compose run --rm --no-deps -T secrets rowdrop credentials --show >"$logs/credentials" 2>/dev/null
grep -q '^MINIO_SECRET_KEY=' "$logs/credentials" || failed "the credentials are shown"
. "$logs/credentials"
[ ${#MINIO_SECRET_KEY} -ge 24 ] && [ ${#FLOWER_PASSWORD} -ge 20 ] || failed "secrets have the minimum length"
ok "credentials are generated, and shown to the operator"
[ "$(status "http://127.0.0.1:$FLOWER_PORT/")" = 401 ] && [ "$(status -u "$FLOWER_USER:$FLOWER_PASSWORD" "http://127.0.0.1:$FLOWER_PORT/")" = 200 ] || failed "Flower requires its password"
for service in redis minio listener worker publisher flower api; do
    docker exec "$(container $service)" ls /run/rowdrop | sort | xargs >>"$logs/held"
done
cat >"$logs/expected" <<'END'
health_password health_user redis.conf
minio.env users_id
minio_access_key minio_prometheus_token minio_secret_key redis_url
minio_access_key minio_prometheus_token minio_secret_key redis_url
minio_access_key minio_secret_key redis_url
flower_password flower_user redis_url
api_token api_tokens events_token generated_api_token minio_access_key minio_secret_key read_tokens redis_url
END
cmp -s "$logs/held" "$logs/expected" || failed "each container has only its own credentials: $(cat "$logs/held")"
ok "each container has only its own credentials"
endpoint=http://127.0.0.1:$MINIO_PORT
sign() { curl -s -o "$logs/output" -w '%{http_code}' --aws-sigv4 aws:amz:us-east-1:s3 --user "$@"; }
. <(compose run --rm --no-deps -T secrets cat /run/rowdrop/kept.env 2>/dev/null | grep '^MINIO_ROOT_')
[ "$(sign "$MINIO_ROOT_USER:$MINIO_ROOT_PASSWORD" "$endpoint/")" = 403 ] || failed "root may not sign in: $(cat "$logs/output")"
day=$(date -u +%Y%m%d)
for key in "$MINIO_ACCESS_KEY" "$MINIO_ROOT_USER"; do
    forged="X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=$key%2F$day%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=$(date -u +%Y%m%dT%H%M%SZ)&X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature=$(printf '0%.0s' $(seq 64))"
    code=$(printf '1\r\nx\r\n0\r\n\r\n' | status -X PUT -H 'x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER' -H 'x-amz-decoded-content-length: 1' --data-binary @- "$endpoint/src-data/forged.csv?$forged")
    [[ $code == 4* ]] || failed "a forged write is rejected: $code"
done
ok "root may not sign in, and forged writes are rejected"
[ "$(status "http://127.0.0.1:$MINIO_PORT/minio/v2/metrics/cluster")" = 403 ] || failed "MinIO's metrics require a token"
[ -z "$(docker port "$(container redis)")" ] || failed "the port of Redis is not published"
[ "$(docker port "$(container minio)" | wc -l)" -eq 1 ] || failed "only MinIO's S3 port is published: $(docker port "$(container minio)")"
ok "Flower and MinIO's metrics require credentials; the ports of Redis and of the console are not published"
reaches() { python_ "$1" -c "import socket; socket.create_connection(('$2', $3), timeout=3)" >/dev/null 2>&1; }
reaches flower redis 6379 && reaches load minio 9000 || failed "containers reach their servers"
for pair in "flower minio 9000" "load redis 6379"; do
    # shellcheck disable=SC2086
    if reaches $pair; then failed "separate networks: $pair"; fi
done
ok "containers do not reach the servers that they do not use"
get /health/ready | grep -q '"warnings": \[\]' || failed "MinIO's events and metrics reach Rowdrop"
ok "no warning: events arrive, and MinIO's metrics are readable"
quiet compose exec -T worker rowdrop status || failed "rowdrop status in the container worker"
quiet compose run --rm --no-deps -T init rowdrop sample --remove || failed "removing the sample"
until_ 60 "the sample is gone" has_rows 0
ok "the sample is removed by one command"
until_ 150 "every container is healthy" healthy
ok "every container is healthy; memory when idle:"
memory

# -- drops, and memory under load ------------------------------------------------------------------
drop 0 1000 60 >"$logs/load" 2>&1 &
load=$!
sleep 12
memory >"$logs/memory"
wait $load || failed "dropping: $(cat "$logs/load")"
load=
until_ 90 "the published rows match the bucket" is_consistent
ok "$(grep dropped "$logs/load"), all of them published; memory under load:"
cat "$logs/memory"

# -- kill, scale, restart, under load --------------------------------------------------------------
drop 10000 14000 25 >"$logs/load" 2>&1 &
load=$!
for service in "${services[@]}"; do
    id=$(container "$service")
    before=$(started "$id")
    docker exec "$id" sh -c 'kill -9 -1' >/dev/null 2>&1 || true
    until_ 60 "$service restarts after kill -9" came_back "$id" "$before"
done
ok "each of ${#services[@]} containers restarted after kill -9 of all its processes"
quiet compose up -d --no-recreate --scale worker=8 || failed "scaling"
[ "$(compose ps -q worker | wc -l)" -eq 8 ] || failed "eight workers run"
ok "--scale worker=8"
for service in "${services[@]}"; do quiet compose restart -t 30 "$service" || failed "restarting $service"; done
ok "each service was restarted"
wait $load || failed "dropping: $(cat "$logs/load")"
load=
until_ 120 "the published rows match the bucket after kills and restarts" is_consistent
ok "$(grep dropped "$logs/load") under kills, scaling and restarts: $(tail -1 "$logs/check")"

# -- loading a folder, a bundle, image copies, public output ---------------------------------------
folder=$logs/users && mkdir "$folder" && chmod 755 "$logs"
for number in 1 2 3; do printf 'first_name,last_name,birthts\nLoaded,%s,%s\n' $number $number >"$folder/loaded-$number.csv"; done
printf '\211PNG\r\n\032\n' >"$folder/loaded-1.png" && echo nobody >"$folder/notes.txt"
chmod 700 "$folder"
if LOAD_FOLDER=$folder compose run --rm --no-deps -T load rowdrop load /load >"$logs/output" 2>&1; then failed "an unreadable folder is an error: $(cat "$logs/output")"; fi
grep -q "Permission denied: '/load'" "$logs/output" || failed "the error names the unreadable folder: $(cat "$logs/output")"
chmod 755 "$folder"
LOAD_FOLDER=$folder compose run --rm --no-deps -T load >"$logs/output" 2>&1 || failed "load: $(cat "$logs/output")"
grep -q "has files already" "$logs/output" || failed "the start loads nothing into a bucket in use: $(cat "$logs/output")"
code=0
LOAD_FOLDER=$folder compose run --rm --no-deps -T load rowdrop load /load >"$logs/output" 2>&1 || code=$?
[ $code = 1 ] || failed "load reports notes.txt by its exit code: $code, $(cat "$logs/output")"
grep -q "4 files loaded" "$logs/output" || failed "four files are loaded: $(cat "$logs/output")"
until_ 30 "the loaded rows" bash -c "[ \$(curl -fsS '$api/data?q=loaded' | grep -o user_id | wc -l) = 3 ]"
ok "one command loads a folder; an unreadable folder is reported"
python_ worker - <<'END' >"$folder/users.zip" || failed "creating a zip"
import sys, zipfile
with zipfile.ZipFile(sys.stdout.buffer, "w") as archive:
    for number in range(50):
        archive.writestr(f"people/zipped-{number}.csv", f"first_name,last_name,birthts\nZipped,{number},{number}\n")
        archive.writestr(f"people/zipped-{number}.png", bytes.fromhex("89504e470d0a1a0a"))
END
curl -fsS -T "$folder/users.zip" "$api/files/users.zip" >/dev/null || failed "dropping the zip"
until_ 60 "the rows of the zip" bash -c "[ \$(curl -fsS '$api/data?q=zipped&is_image_exists=true' | grep -o user_id | wc -l) = 50 ]"
[ "$(status "$api/data/zipped-7/image")" = 200 ] || failed "the image of a user in a bundle is served"
ok "a zip of 50 users with images, dropped through the API, is unpacked"
public() { status "http://127.0.0.1:$MINIO_PORT/$1"; }
[ "$(public processed-data/output.csv)" = 403 ] || failed "nothing is public by default"
PUBLIC_OUTPUT=true IMAGES=copy quiet compose up -d || failed "setting PUBLIC_OUTPUT and IMAGES"
until_ 60 "output.csv is public" bash -c "curl -fsS -o '$logs/public' http://127.0.0.1:$MINIO_PORT/processed-data/output.csv"
until_ 60 "the API is available again" get /health/live >/dev/null
curl -fsS -X POST "$api/data?wait=120" | grep -q '"updated"' || failed "a rebuild"
get /data/loaded-1 | grep -q '"processed-data/images/loaded-1.png"' || failed "IMAGES=copy and a rebuild convert img_path"
for path in processed-data/images/loaded-1.png processed-data/images/zipped-7.png processed-data/rejects.csv; do
    [ "$(public $path)" = 200 ] || failed "$path is public"
done
for path in src-data/loaded-1.csv processed-data/bundles.json "processed-data/?list-type=2" "src-data/?list-type=2"; do
    [ "$(public "$path")" = 403 ] || failed "$path is private"
done
quiet compose up -d || failed "resetting both settings"
until_ 60 "output.csv is private again" bash -c "[ \$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:$MINIO_PORT/processed-data/output.csv) = 403 ]"
until_ 60 "the API is available again" get /health/live >/dev/null
curl -fsS -X POST "$api/data?wait=120" | grep -q '"updated"' || failed "a rebuild"
get /data/loaded-1 | grep -q '"src-data/loaded-1.png"' || failed "IMAGES=reference and a rebuild convert img_path back"
until_ 120 "the published rows match the bucket" is_consistent
ok "PUBLIC_OUTPUT and IMAGES=copy: only results and image copies are public; both can be reset"

# -- down and up -----------------------------------------------------------------------------------
get /data >"$logs/before"
quiet compose down -t 30 || failed "down"
quiet compose up -d || failed "up again"
until_ 120 "the API is available again" get /health/live >/dev/null
until_ 60 "the same rows after down and up" bash -c "curl -fsS $api/data | cmp -s - '$logs/before'"
compose run --rm --no-deps -T secrets rowdrop credentials --show 2>/dev/null | cmp -s - "$logs/credentials" || failed "the same credentials"
until_ 60 "the published rows match the bucket after down and up" is_consistent
ok "down and up: the same rows, the same credentials"

# -- access to the API -----------------------------------------------------------------------------
[ "$(status -X POST "$api/data")" = 202 ] || failed "POST /data on loopback"
[ "$(status -H 'X-Forwarded-For: 203.0.113.9' -X POST "$api/data")" = 401 ] || failed "a forwarded write without a token is rejected"
BIND_ADDRESS=0.0.0.0 quiet compose up -d --no-deps api || failed "BIND_ADDRESS"
until_ 60 "the API is available again" get /health/live >/dev/null
for method in GET POST; do
    [ "$(status -X $method "$api/data")" = 401 ] || failed "$method without a token is rejected"
    [[ "$(status -X $method -H "Authorization: Bearer $GENERATED_API_TOKEN" "$api/data")" == 20[02] ]] || failed "$method with the generated token"
done
ok "on all addresses: 401 without a token, access with the generated token"
export API_TOKEN=a-token-that-the-test-has-set
quiet compose run --rm --no-deps -T secrets
BIND_ADDRESS=0.0.0.0 quiet compose up -d --no-deps --force-recreate api
until_ 60 "the API is available again" get /health/live >/dev/null
[ "$(status -X POST "$api/data")" = 401 ] && [ "$(status -X POST -H "Authorization: Bearer $API_TOKEN" "$api/data")" = 202 ] || failed "the token of API_TOKEN gives access"
ok "API_TOKEN: 401 without it, 202 with it"

# -- a data folder that is not writable ------------------------------------------------------------
mkdir "$logs/data" && chmod 755 "$logs/data"
if MINIO_VOLUME=$logs/data compose run --rm --no-deps -T secrets >"$logs/output" 2>&1; then failed "a folder that is not writable is an error"; fi
grep -q "chown -R 10001:10001 $logs/data" "$logs/output" || failed "the error contains the chown command: $(cat "$logs/output")"
ok "a folder that is not writable is reported with the chown command"

echo "compose.sh: $passed checks passed in $((SECONDS - started_at)) s"
