"""What the tutorial and the how-tos say, done."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.deployed import NGINX_MAIN, answers
from tests.support.servers import ROOT, Process, RedisServer, Uwsgi, free_port, wait_until
from tests.support.site import SITE, site_env
from tests.support.wire import connect

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DOCS = ROOT / "docs"


def blocks(path: str, language: str) -> list[str]:
    text = (DOCS / path).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_links_lead_somewhere() -> None:
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "bench" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page}: {target}"


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    pages = {str(page.relative_to(DOCS)) for page in DOCS.glob("*/*.md")}
    assert pages == set(re.findall(r"\]\(([^):#]+\.md)\)", index))


def test_every_page_has_one_title() -> None:
    for page in DOCS.rglob("*.md"):
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert prose.startswith("# "), page
        assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1, page


def test_pictures_are_whole_and_readable_on_any_page() -> None:
    pages = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    for path in (DOCS / "images").glob("*.svg"):
        assert f"../images/{path.name})" in pages
        picture = path.read_text()
        root = ElementTree.fromstring(picture)
        ground = root.find("{*}rect")
        assert ground is not None
        assert ground.get("class") == "ground"
        assert "@media (prefers-color-scheme: dark)" in picture
        assert re.findall(r"(?:href|src|url)[=(]\W*(?!#)\w", picture.replace("url(#", "")) == []
        # Nothing that is written lies outside.
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for text in root.iter("{*}text"):
            assert 0 < float(text.attrib["x"]) < width
            assert 0 < float(text.attrib["y"]) < height


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``./build.sh docs`` needs, where a test may spoil it; the tools are those of this tree."""
    directory = tmp_path_factory.mktemp("tree")
    for name in ("build.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, directory)
    shutil.copytree(ROOT / "requirements", directory / "requirements")
    (directory / "uws4r").mkdir()
    shutil.copy(ROOT / "uws4r" / "__init__.py", directory / "uws4r")
    (directory / ".venv").symlink_to(sys.prefix)
    return directory


def build_docs(copy: Path) -> tuple[int, str]:
    """Build them with what is in the tree's ``docs``; return the exit status and what is said."""
    done = subprocess.run(
        [copy / "build.sh", "docs"],
        env={**os.environ, "PYTHONDEVMODE": "", "PYTHON": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_documentation_builds_without_a_warning(copy: Path) -> None:
    shutil.copytree(DOCS, copy / "docs", dirs_exist_ok=True)
    status, said = build_docs(copy)
    assert status == 0, said
    built = copy / "build" / "docs"
    assert len(list(built.glob("*/*.html"))) == len(list(DOCS.glob("*/*.md")))
    index = (built / "index.html").read_text()
    for kind in ("tutorial", "how-to", "reference", "explanation"):
        for page in (DOCS / kind).glob("*.md"):
            assert f'<a class="reference internal" href="{kind}/{page.stem}.html">' in index
    # Whoever reads it asks nobody else.
    for page in built.rglob("*.html"):
        assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?:https?:)?//[^>]*>", page.read_text()), page


@pytest.mark.parametrize(
    ("page", "text", "said"),
    [
        ("how-to/run.md", "[there](../reference/no-such-page.md)", "'../reference/no-such-page.md'"),
        ("how-to/run.md", "[there](../reference/settings.md#no-such-heading)", "'no-such-heading'"),
        ("how-to/run.md", "[here](#no-such-heading)", "'no-such-heading'"),
        ("how-to/run.md", "![picture](../images/no-such-picture.svg)", "no-such-picture.svg"),
    ],
    ids=["page", "heading elsewhere", "heading", "picture"],
)
def test_what_leads_nowhere_is_an_error(copy: Path, page: str, text: str, said: str) -> None:
    shutil.copytree(DOCS, copy / "docs", dirs_exist_ok=True)
    with (copy / "docs" / page).open("a") as file:
        file.write(f"\n\n{text}\n")
    status, output = build_docs(copy)
    assert status == 1
    (line,) = [line for line in output.splitlines() if re.search(r"\.md:.*WARNING", line)]
    assert page in line
    assert said in line


def test_the_tutorial(tmp_path: Path, redis_server: RedisServer, installed: Path) -> None:
    """Every command and every file of it, in an environment made by its first block."""
    redis_server.client.flushall()
    setup, serve, publish = blocks("tutorial/chat.md", "sh")
    settings, wsgi, urls = blocks("tutorial/chat.md", "python")
    (page,) = blocks("tutorial/chat.md", "html")
    port = free_port()
    # The environment is installed by the very same command; here it is found where the tests have it.
    assert "pip install '.[uwsgi]'" in setup
    commands = setup.splitlines()[setup.splitlines().index("mkdir ~/chat") :]
    home = {**os.environ, "HOME": str(tmp_path)}
    (tmp_path / "chat-venv").symlink_to(installed.parent)
    subprocess.run(["sh", "-ec", "\n".join(commands)], env=home, check=True)
    site = tmp_path / "chat" / "mysite"
    with (site / "settings.py").open("a") as file:
        file.write(settings.replace("redis://localhost:6379/0", redis_server.url))
    (site / "wsgi.py").write_text(wsgi)
    (site / "urls.py").write_text(urls)
    (site / "chat.html").write_text(page)
    program, *options = serve.replace("~", str(tmp_path)).replace(":8000", f"127.0.0.1:{port}").split()
    uwsgi = Uwsgi(
        tmp_path,
        ["--chdir", site.parent, "--virtualenv", installed.parent, *options],
        {"PYTHONDEVMODE": "", "PYTHONPATH": ""},
        port,
        program=Path(program),
    )
    try:
        html = urllib.request.urlopen(f"http://localhost:{port}/").read().decode()
        path = re.findall(r"/ws/[\w?&=-]+", html)[0]
        with connect(uwsgi.address, path) as one, connect(uwsgi.address, path) as two:
            wait_until(lambda: redis_server.subscriptions("broadcast:chat"), "subscribed")
            one.send("hello")
            assert one.receive() == two.receive() == "hello"
            publish = publish.replace(":8000", f":{port}").replace("redis-cli", f"redis-cli -p {redis_server.port}")
            subprocess.run(["sh", "-ec", publish], check=True, stdout=subprocess.DEVNULL)
            for client in (one, two):
                assert [client.receive(), client.receive()] == ["tea is ready", "so are the biscuits"]
        with connect(uwsgi.address, path) as late:
            assert late.receive() == "tea is ready"
        uwsgi.assert_healthy()
    finally:
        uwsgi.stop()


def test_behind_nginx_as_the_how_to_says(redis_server: RedisServer, database: Path) -> None:
    redis_server.client.flushall()
    start, *_ = blocks("how-to/deploy.md", "sh")
    server, *_ = blocks("how-to/deploy.md", "nginx")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name:
        directory = Path(name)
        start = start.replace("/srv/mysite/run", f"{directory}/run").replace("/srv/mysite", str(SITE))
        start = start.replace("mysite.settings", "testsite.settings").replace("uwsgi --emperor", "exec uwsgi --emperor")
        env = {**site_env(redis_server.url, database), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        emperor = Process(["sh", "-ec", f"cd {ROOT}\n{start}"], directory / "emperor.log", env)
        emperor.wait_ready(lambda: emperor.log.count("is ready to accept requests") == 2)
        for said, here in (
            ("listen 80;", f"listen 127.0.0.1:{port};"),
            ("/srv/mysite/run", f"{directory}/run"),
            ("/srv/uws4r", str(ROOT)),
        ):
            assert said in server
            server = server.replace(said, here)
        config = directory / "nginx.conf"
        config.write_text(NGINX_MAIN.format(directory=directory, server=server))
        nginx = Process(["/usr/sbin/nginx", "-p", directory, "-c", config], directory / "nginx.log")
        try:
            nginx.wait_ready(lambda: answers(port))
            path = "/ws/foo?subscribe-broadcast&publish-broadcast&echo"
            headers: dict[str, str | None] = {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"}
            with connect(("127.0.0.1", port), path, headers) as client:
                client.send("hello")
                assert client.receive() == "hello"
                emperor.process.send_signal(signal.SIGINT)
                assert client.receive_close().close_code == 1012
        finally:
            nginx.stop()
            emperor.stop()
