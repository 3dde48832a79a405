#!/usr/bin/env bash
# Everything that is done with this project, on a fresh machine or a used one:
#   ./build.sh run     the example site, on http://localhost:9090/
#   ./build.sh test    lint, types, unit and end-to-end tests
# Called with no argument it lists the rest.
set -euo pipefail
cd "$(dirname "$0")"

VENV=$PWD/.venv
EXTRAS=uwsgi,gevent,embedded,test

usage() {
    cat <<'TEXT'
usage: ./build.sh VERB

  run [native]    serve the example site in uWSGI's emperor, in native mode if so; Ctrl-C ends it
  test            everything that has to pass: lint, types, unit and end-to-end tests
  test quick      the inner loop: lint, types, all tests that are not marked slow
  test ARGS…      pytest with these arguments
  pythons [3.X[:DJANGO]…]
                  install and test the package on every Python that is here, each with a different Django, or on those named
  conformance [CASES…]
                  the Autobahn|Testsuite, all its cases or such as '9.*' (tests/conformance/README.md)
  bench ARGS…     the benchmark (bench/README.md)
  sanitize        the unit tests, and the end-to-end ones in uWSGI, with AddressSanitizer and UBSan
  fuzz [SECONDS]  random input for all fuzz targets, for so long together (tests/fuzz/README.md); 60
  soak [NAME…]    hostile and idle clients, for half an hour; all parts or those named (tests/soak/README.md)
  faults [NAME…]  Redis, the network, workers and clocks fail under 200 websockets; all rows of the table or those named
                  (tests/faults/README.md)
  docs            the documentation as web pages, in build/docs; a link that leads nowhere is an error
  build           only the set-up: system packages, virtual environment, uWSGI, extensions, the emperor's plugin
  native          the same, and uWSGI's plugins for native mode, in plugin/
  pins [NAME==VERSION…]
                  requirements/build.txt with the newest pip, setuptools, wheel and Cython, or those named
  clean           remove what was built

Set PYTHON to choose the interpreter (3.10 or newer), UWS4R_PORT to serve on another port than 9090,
UWS4R_REDIS (redis://host:port/db) to use a Redis of yours instead of an embedded one.
TEXT
}

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
fail() { printf '\033[1;31m%s\033[0m\n' "$*" >&2; exit 1; }

# ---------------------------------------------------------------- set-up, each step done once

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

# What the steps below need from the system, as Debian's package names.
missing_packages() {
    command -v gcc >/dev/null || echo build-essential
    # uWSGI without PCRE has no `route =`, and the emperor cannot tell websockets from pages.
    echo '#include <pcre2.h>' | gcc -E -DPCRE2_CODE_UNIT_WIDTH=8 - >/dev/null 2>&1 || echo libpcre2-dev
    echo '#include <zlib.h>' | gcc -E - >/dev/null 2>&1 || echo zlib1g-dev
    # And uWSGI without OpenSSL has no `https =`.
    echo '#include <openssl/ssl.h>' | gcc -E - >/dev/null 2>&1 || echo libssl-dev
    command -v redis-server >/dev/null || echo redis-server
    if [ "${1:-}" = tests ]; then
        command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || echo nginx-light
        # The server and its modules, without the service.
        [ -x /usr/sbin/apache2 ] || echo apache2-bin
        command -v chromium >/dev/null || echo chromium
        command -v chromedriver >/dev/null || echo chromium-driver
        command -v openssl >/dev/null || echo openssl
        command -v redis-cli >/dev/null || echo redis-tools
        # For a date that jumps, in the workers of one test only.
        command -v faketime >/dev/null || echo faketime
        command -v npm >/dev/null || echo nodejs npm
        # The distribution's own uWSGI: the shipped files have to start in it too.
        [ -e /usr/include/sys/capability.h ] && [ -x /usr/bin/uwsgi-core ] && [ -e /usr/lib/uwsgi/plugins/python3_plugin.so ] ||
            echo uwsgi-core uwsgi-plugin-python3 uwsgi-dev
    fi
    if [ "${1:-}" = fuzz ]; then
        command -v clang >/dev/null || echo clang
    fi
    find_python >/dev/null || echo python3 python3-venv python3-dev
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" - 2>/dev/null <<'CODE'
import ensurepip, os, sys, sysconfig
sys.exit(not (sys.version_info >= (3, 10) and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))))
CODE
        then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

system_packages() {
    local packages
    packages=$(missing_packages "$@" | tr '\n' ' ')
    [ -n "${packages// /}" ] || return 0
    can_install || fail "Please install these packages and call me again: $packages"
    say "installing $packages"
    as_root apt-get update -qq
    # Without its own service: nothing here uses Redis on its usual port.
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $packages >/dev/null
    packages=$(missing_packages "$@" | tr '\n' ' ')
    [ -z "${packages// /}" ] || fail "still missing after apt-get install: $packages"
}

interpreter() {
    local python
    python=$(find_python) || fail "no Python of 3.10 or newer with venv and headers"
    if [ -n "${PYTHON:-}" ] && [ -x "$VENV/bin/python" ] &&
        [ "$("$VENV/bin/python" -c 'import sys; print(sys.version)')" != "$("$python" -c 'import sys; print(sys.version)')" ]; then
        say "another Python than last time: starting afresh"
        rm -rf "$VENV" build
        rm -f uws4r/*.so plugin/built*.stamp
    fi
    [ -x "$VENV/bin/python" ] || { say "virtual environment with $python"; "$python" -m venv "$VENV"; }
}

# What compiles the rest is what it was when we last looked: pinned, with checksums.
build_tools() {
    local stamp="$VENV/tools.stamp"
    cmp -s requirements/build.txt "$stamp" && return 0
    say "pip, setuptools, Cython"
    "$VENV/bin/python" -m pip install --quiet --require-hashes --requirement requirements/build.txt
    cp requirements/build.txt "$stamp"
}

virtual_environment() {
    interpreter
    build_tools
    local stamp="$VENV/requirements.stamp"
    if ! cmp -s pyproject.toml "$stamp"; then
        say "Python packages"
        rm -f "$VENV/extensions.stamp"
        # Compiled here, and never from a cache: a uWSGI that was built without PCRE would come back.
        # What it says on standard error is a warning about editable installs in general; a failure says it again.
        "$VENV/bin/pip" install --quiet --no-cache-dir --no-binary uwsgi --no-build-isolation --editable ".[$EXTRAS]" \
            2>"$VENV/pip.log" || { cat "$VENV/pip.log" >&2; fail "pip install failed"; }
        source_digest > "$VENV/extensions.stamp"
        cp pyproject.toml "$stamp"
    fi
}

uwsgi_has_all() {
    local help
    help=$("$VENV/bin/uwsgi" --help 2>/dev/null) || return 1
    grep -q -- '--route ' <<<"$help" && grep -q -- '--https ' <<<"$help"
}

uwsgi_with_all() {
    uwsgi_has_all && return 0
    say "uWSGI, with PCRE2 and OpenSSL"
    "$VENV/bin/pip" install --quiet --force-reinstall --no-deps --no-cache-dir --no-binary uwsgi uwsgi
    uwsgi_has_all || fail "uWSGI was built without internal routing (PCRE2), or without TLS (OpenSSL)"
}

source_digest() {
    cat setup.py requirements/build.txt uws4r/*.pyx uws4r/*.pxd | sha256sum
}

extensions() {
    local stamp="$VENV/extensions.stamp"
    source_digest | cmp -s - "$stamp" && return 0
    say "extension modules"
    "$VENV/bin/python" setup.py --quiet build_ext --inplace
    source_digest > "$stamp"
}

build() {
    system_packages "$@"
    virtual_environment
    uwsgi_with_all
    extensions
}

# uWSGI's plugin for the emperor; without --front also those that native mode needs, for this environment's interpreter.
plugins() {
    local stamp=plugin/built${1:-}.stamp now
    now=$(cat plugin/*.c plugin/*.py plugin/sources.txt plugin/front/* | sha256sum
        "$VENV/bin/python" -VV; "$VENV/bin/uwsgi" --version
        "$VENV/bin/python" -c 'import greenlet; print(greenlet.__version__)')
    [ "$now" != "$(cat "$stamp" 2>/dev/null)" ] || return 0
    say "uWSGI's plugins"
    "$VENV/bin/python" plugin/build.py "$@" >/dev/null
    echo "$now" | tee "$stamp" > plugin/built--front.stamp
}

# ---------------------------------------------------------------- verbs

run() {
    build
    if [ "${1:-}" = native ]; then plugins; else plugins --front; fi
    exec "$VENV/bin/python" examples/serve.py "$@"
}

lint() {
    say "lint"
    "$VENV/bin/ruff" check .
    "$VENV/bin/ruff" format --check .
    bash -n build.sh .ci/run
    say "types"
    "$VENV/bin/mypy"
    "$VENV/bin/python" -m mypy.stubtest --allowlist tests/stubtest.allow \
        uws4r._decoder uws4r._frames uws4r._connection uws4r._channel uws4r._fanout uws4r._pipeline uws4r._intake uws4r._hub \
        uws4r._outbox uws4r._descriptors
}

run_tests() {
    build tests
    plugins
    case "${1:-all}" in
        all)
            lint
            local result=0
            say "tests"
            side_by_side -m "not alone" || result=1
            say "tests that measure, one after the other"
            pytest -m alone || result=1
            return $result
            ;;
        quick)
            lint
            say "tests that are not slow"
            side_by_side -m "not slow"
            ;;
        *) pytest "$@" ;;
    esac
}

pytest() {
    PYTHONDEVMODE=1 "$VENV/bin/python" -m pytest "$@"
}

# One process more than there are cores: tests of servers wait more than they compute.
side_by_side() {
    pytest -q -n $(($(nproc) + 1)) --dist worksteal "$@"
}

pythons() {
    build tests
    exec "$VENV/bin/python" tests/pythons.py "$@"
}

conformance() {
    build
    plugins
    exec "$VENV/bin/python" -m tests.conformance "$@"
}

bench() {
    build
    exec "$VENV/bin/python" -m bench "$@"
}

# A copy of the package in build/$1/tree, with extensions for the verb $1; the tests are those of the tree.
instrumented() {
    local part verb=$1 tree=build/$1/tree stamp=build/$1/extensions.stamp
    if ! source_digest | cmp -s - "$stamp"; then
        rm -rf "$tree" "$stamp"
    fi
    mkdir -p "$tree"
    find "$tree" -name '*.py' -delete  # but for those that are still there
    tar -c --exclude='*.so' --exclude='uws4r/*.c' --exclude=__pycache__ --exclude=node_modules \
        setup.py pyproject.toml README.md LICENSE uws4r tests | tar -x -C "$tree"
    for part in apache docs emperor examples js nginx plugin requirements router vassals; do
        ln -sfn "$PWD/$part" "$tree/$part"
    done
    if [ ! -e "$stamp" ]; then
        say "extension modules for $verb"
        (cd "$tree" && UWS4R_INSTRUMENT=$verb "$VENV/bin/python" setup.py --quiet build_ext --inplace)
        source_digest > "$stamp"
    fi
}

sanitize() {
    build
    instrumented sanitize
    cd build/sanitize/tree
    local run=(
        env LD_PRELOAD="$(gcc -print-file-name=libasan.so)" PYTHONMALLOC=malloc UBSAN_OPTIONS=print_stacktrace=1
        PYTHONDEVMODE=1 "$VENV/bin/python" -m pytest -p no:cacheprovider
    )
    [ $# -eq 0 ] || exec "${run[@]}" "$@"
    say "unit tests, with AddressSanitizer and UBSan"
    "${run[@]}" tests/unit --ignore tests/unit/test_js_client.py  # which runs in Node
    say "end-to-end tests, with both in uWSGI"
    # uWSGI reads beyond the end of its .ini files, and does not give everything back at its own end.
    echo interceptor_via_fun:uwsgi_concat3n > ../suppressions
    # Left out is what has no websockets in uWSGI, and what measures.
    ASAN_OPTIONS=detect_leaks=0:suppressions=$PWD/../suppressions "${run[@]}" -m "not malloc" $(printf 'tests/e2e/test_%s.py ' \
        admin audiences bad_input handshake hostile logout modes native publishing redis serving stops stress)
}

fuzz() {
    system_packages fuzz
    build
    local stamp="$VENV/fuzz.stamp" hiredis
    if ! cmp -s pyproject.toml "$stamp"; then
        say "atheris"
        "$VENV/bin/pip" install --quiet --group fuzz
        cp pyproject.toml "$stamp"
    fi
    CC=clang instrumented fuzz
    # The parser of the link is hiredis: without counters in it, the fuzzer would have to guess what it likes.
    hiredis=hiredis==$("$VENV/bin/python" -c 'import hiredis; print(hiredis.__version__)')
    if [ ! -d "build/fuzz/$hiredis" ]; then
        say "$hiredis for fuzz"
        CC=clang CFLAGS="-O1 -g -fsanitize=fuzzer-no-link" "$VENV/bin/pip" install --quiet --no-deps --no-cache-dir \
            --no-binary hiredis --target "build/fuzz/$hiredis" "$hiredis"
    fi
    say "fuzz"
    local arguments=() argument
    for argument in "$@"; do
        [ ! -e "$argument" ] || argument=$(realpath "$argument")
        arguments+=("$argument")
    done
    cd build/fuzz/tree
    PYTHONPATH=../$hiredis exec "$VENV/bin/python" -m tests.fuzz "${arguments[@]}"
}

soak() {
    build tests
    plugins --front
    exec nice -n 5 "$VENV/bin/python" -m tests.soak "$@"
}

faults() {
    build tests
    plugins --front
    exec "$VENV/bin/python" -m tests.faults "$@"
}

docs() {
    interpreter
    build_tools
    local stamp="$VENV/docs.stamp"
    if ! cmp -s pyproject.toml "$stamp"; then
        say "Sphinx"
        # A dependency group needs uws4r neither installed nor compiled.
        "$VENV/bin/pip" install --quiet --group docs
        cp pyproject.toml "$stamp"
    fi
    say "documentation"
    rm -rf build/docs
    # From nothing: what Sphinx remembers of a page, it does not warn about again.
    "$VENV/bin/python" -m sphinx --builder html --fresh-env --fail-on-warning --keep-going --quiet \
        --doctree-dir build/doctrees docs build/docs
    say "$PWD/build/docs/index.html"
}

clean() {
    rm -rf "$VENV" build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
    rm -rf tests/js/node_modules
    rm -f uws4r/*.so uws4r/*.c plugin/*.so plugin/built*.stamp
}

verb=${1:-}
[ $# -eq 0 ] || shift
case "$verb" in
    run) run "$@" ;;
    test) run_tests "$@" ;;
    pythons) pythons "$@" ;;
    conformance) conformance "$@" ;;
    bench) bench "$@" ;;
    sanitize) sanitize "$@" ;;
    fuzz) fuzz "$@" ;;
    soak) soak "$@" ;;
    faults) faults "$@" ;;
    docs) docs ;;
    build) build; plugins --front ;;
    native) build; plugins ;;
    pins) interpreter; "$VENV/bin/python" requirements/pin.py "$@" ;;
    clean) clean ;;
    ""|help|-h|--help) usage ;;
    *) usage; fail "unknown verb: $verb" ;;
esac
