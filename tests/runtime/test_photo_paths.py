"""Photos from files, folders, patterns, lists and the web."""

import io
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vertebra.decoding import decode
from vertebra.errors import ImageError, VertebraWarning
from vertebra.photo_download import fetch
from vertebra.photo_files import SUFFIXES
from vertebra.runtime.photo import Photo
from vertebra.runtime.photo_paths import photos


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "below/c.webp", "below/deep/d.jpeg", "._b.jpg", ".hidden/e.jpg", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


def names(found, folder):
    return [photo.path.removeprefix(f"{folder}/") for photo in found]


def test_a_folder_in_order_of_names(folder):
    assert names(photos([str(folder)]), folder) == ["a.PNG", "b.jpg", "below/c.webp", "below/deep/d.jpeg"]


def test_photos_that_are_not_downloaded_are_told(folder):
    (folder / "below" / ".IMG_1.jpg.icloud").write_bytes(b"bplist00")
    (folder / ".list.txt.icloud").write_bytes(b"bplist00")
    with pytest.warns(VertebraWarning, match=r"a photo that iCloud has not downloaded, .*below/\.IMG_1\.jpg\.icloud\."):
        assert len(list(photos([str(folder)]))) == 4
    (folder / "alone").mkdir()
    (folder / "alone" / ".a.png.icloud").touch()
    (only,) = photos([str(folder / "alone")])
    assert "there is no photo in this folder" in only.error and "iCloud has not downloaded" in only.error


def test_links_are_followed_but_not_in_a_circle(folder):
    (folder / "below" / "up").symlink_to(folder)
    (folder / "below" / "out").symlink_to(folder.parent)
    (folder / "z").symlink_to(folder / "below" / "deep")
    with pytest.warns(
        VertebraWarning, match="below/(up|out) is a link to a folder that it lies in: it is not followed"
    ):
        found = list(photos([str(folder)]))
    assert names(found, folder) == ["a.PNG", "b.jpg", "below/c.webp", "below/deep/d.jpeg", "z/d.jpeg"]


def test_folders_that_link_to_one_another(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / one).mkdir()
        (tmp_path / one / f"{one}.jpg").touch()
        (tmp_path / one / "other").symlink_to(Path("..", other))
        (tmp_path / one / "up").symlink_to("..")
    with pytest.warns(VertebraWarning) as told:
        found = list(photos([str(tmp_path)]))
        by_pattern = list(photos([f"{tmp_path}/**/*.jpg"]))
    assert names(found, tmp_path) == ["a/a.jpg", "a/other/b.jpg", "b/b.jpg", "b/other/a.jpg"]
    assert by_pattern == found
    assert len({str(warning.message) for warning in told}) == 6


@pytest.mark.parametrize("name", ["ring", "ring.jpg"])
def test_what_leads_nowhere_is_told_and_ends_nothing(folder, name):
    (folder / name).symlink_to(name)
    (folder / f"x{name}").symlink_to(f"y{name}")
    (folder / f"y{name}").symlink_to(f"x{name}")
    (folder / f"z{name}").symlink_to("nowhere")
    os.mkfifo(folder / f"fifo{name}")
    found = list(photos([str(folder)]))
    bad = [photo for photo in found if "ring" in photo.path]
    expected = [name, f"x{name}", f"y{name}", f"z{name}"]
    assert names(bad, folder) == sorted(expected + ([f"fifo{name}"] if name == "ring.jpg" else []))
    assert len(found) == 4 + len(bad)
    if name == "ring":
        assert [photo.error for photo in bad] == [f"{photo.path} is a link to nothing" for photo in bad]
    for photo in bad:
        if photo.error is None:
            with pytest.raises(ImageError, match=photo.path):
                decode(photo.open())


def test_what_systems_put_beside_photos_is_no_photo(folder):
    for name in ("@eaDir/b.jpg", "below/__MACOSX/c.jpg", "below/deep/.ipynb_checkpoints/d.jpg", "lost+found/x.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"x")
    expected = ["a.PNG", "b.jpg", "below/c.webp", "below/deep/d.jpeg"]
    assert names(photos([str(folder)]), folder) == expected
    assert names(photos([f"{folder}/**/*.jpg"]), folder) == ["b.jpg"]
    assert names(photos([f"{folder}/@eaDir/*.jpg"]), folder) == ["@eaDir/b.jpg"]  # as asked


def test_files_of_other_suffixes_are_known_by_how_they_begin(folder):
    (folder / "plain").write_bytes(b"\xff\xd8\xff\xe0" + bytes(30))
    (folder / "u.JFIF").write_bytes(b"x")
    (folder / "phone.HEIC").write_bytes(b"x")
    found = names(photos([str(folder)]), folder)
    assert found == ["a.PNG", "b.jpg", "below/c.webp", "below/deep/d.jpeg", "phone.HEIC", "plain", "u.JFIF"]


def test_a_folder_that_cannot_be_listed_is_told(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(photos([str(folder)]))
    assert names(found, folder) == ["a.PNG", "b.jpg", "below/c.webp", "below/deep"]
    assert found[-1].error == f"{folder}/below/deep cannot be listed (Permission denied)"


def test_an_empty_folder_is_an_error(tmp_path):
    (photo,) = photos([str(tmp_path)])
    assert "no photo in this folder" in photo.error


def test_files_are_taken_as_they_are_given(folder):
    given = [str(folder / "notes.txt"), str(folder / "none.jpg"), str(folder / "b.jpg"), str(folder / "b.jpg")]
    assert [photo.path for photo in photos(given)] == given


def test_patterns(folder):
    assert names(photos([f"{folder}/*.jpg"]), folder) == ["b.jpg", "folder.jpg"]
    assert names(photos([f"{folder}/**/*.jpeg"]), folder) == ["below/deep/d.jpeg"]
    (photo,) = photos([f"{folder}/*.tga"])
    assert "no file matches" in photo.error


def test_patterns_of_several_folders(folder, monkeypatch):
    (folder / "below" / "deep" / "[x]" / "below").mkdir(parents=True)
    (folder / "below" / "deep" / "[x]" / "below" / "e.jpg").touch()
    (folder / "below" / ".secret").mkdir()
    (folder / "below" / ".secret" / "f.jpg").touch()
    for pattern in ("**/*.jpg", "**/**/*.jpg", "**//*.jpg"):
        assert names(photos([f"{folder}/{pattern}"]), folder) == ["b.jpg", "below/deep/[x]/below/e.jpg"]
    assert names(photos([f"{folder}/**/below/*.[wj]*"]), folder) == ["below/c.webp", "below/deep/[x]/below/e.jpg"]
    assert names(photos([f"{folder}/below/**"]), folder) == [
        *("below/c.webp", "below/deep/[x]/below/e.jpg", "below/deep/d.jpeg")
    ]
    assert names(photos([f"{folder}/b*/**/?.jpeg"]), folder) == ["below/deep/d.jpeg"]
    monkeypatch.chdir(folder)
    assert [photo.path for photo in photos(["**/*.jpeg", "b**/*.webp"])] == ["below/deep/d.jpeg", "below/c.webp"]


def test_a_folder_that_a_pattern_cannot_list(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(photos([f"{folder}/**/*.jpg"]))
    assert names(found, folder) == ["b.jpg", "below/deep"]
    assert found[-1].error == f"{folder}/below/deep cannot be listed (Permission denied)"


def test_a_name_with_the_signs_of_a_pattern(tmp_path):
    path = tmp_path / "photo[1].jpg"
    path.write_bytes(b"x")
    assert list(photos([str(path)])) == [Photo(str(path))]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_a_list_on_standard_input(folder, end):
    lines = [f"{folder}/b.jpg".encode(), b"", f"{folder}/below".encode(), b"caf\xe9.jpg"]
    found = photos(["first.jpg", "-"], io.BytesIO(end.join(lines) + end))
    assert names(found, folder) == ["first.jpg", "b.jpg", "below/c.webp", "below/deep/d.jpeg", "caf\udce9.jpg"]


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_list_as_windows_writes_it(coding, end):
    lines = ["C:\\Köln\\Ċ.jpg", "", "日本.png", "/usr/share/x.jpg"]
    content = ("\ufeff" if coding == "utf-16-be" else "") + end.join(lines)
    found = photos(["-"], io.BytesIO(content.encode(coding)))
    assert [photo.path for photo in found] == [lines[0], *lines[2:]]


def test_a_name_that_begins_like_a_byte_order_mark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("\ufeffa.jpg").touch()
    lines = b"\xef\xbb\xbfa.jpg\n\xff\xfe.jpg\n"
    assert [photo.path for photo in photos(["-"], io.BytesIO(lines))] == ["\ufeffa.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    lines = b"\xff\xfe.jpg\n\xef\xbb\xbfa.jpg\n"
    assert [photo.path for photo in photos(["-"], io.BytesIO(lines))] == [os.fsdecode(b"\xff\xfe.jpg"), "\ufeffa.jpg"]


class Pipe(io.BufferedIOBase):
    """What is written into it comes piece by piece."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def read1(self, size=-1):
        if not self.pieces:
            raise AssertionError("read too far")
        return self.pieces.pop(0)


@pytest.mark.parametrize(
    "pieces", [(b"a.jpg\n",), (b"a.", b"jpg\nb"), (b"a.jpg\0",), (b"a.j", b"pg\0b\n"), (b"a.jpg\n", b"\n")]
)
def test_the_list_is_read_as_it_comes(pieces):
    assert next(photos(["-"], Pipe(*pieces))).path == "a.jpg"


NAMES = ["new\nline.jpg", "b.jpg\r\n", "\n", "\r.jpg", "caf\udce9.jpg", "\ufeffc.jpg"]


@pytest.mark.parametrize("size", [1 << 16, 20])
@pytest.mark.parametrize("ended", [True, False])
def test_line_breaks_are_parts_of_names_that_are_ended_by_nul(size, ended):
    content = b"\0".join(map(os.fsencode, [*NAMES, "d.jpg"])) + b"\0" * ended
    pieces = [content[place : place + size] for place in range(0, len(content), size)]
    found = [photo.path for photo in photos(["-"], Pipe(*pieces, b""))]
    assert found == [*NAMES, "d.jpg"]


@pytest.mark.parametrize("size", [1, 4, 1 << 16])
def test_a_list_of_lines_that_comes_in_pieces(size):
    content = b"\xef\xbb\xbfa.jpg\r\n\n./caf\xe9.jpg\nb.jpg\0c d.jpg\r"
    pieces = [content[place : place + size] for place in range(0, len(content), size)]
    pieces = pieces if size < 10 else [content[:10], content[10:]]
    found = [photo.path for photo in photos(["-"], Pipe(*pieces, b""))]
    assert found == ["a.jpg", "./caf\udce9.jpg", "b.jpg", "c d.jpg"]


# --- the web -------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        kind = self.path.strip("/")
        if kind == "photo":
            self.answer(b"pixels")
        elif kind == "long":
            self.answer(b"x" * 2000)
        elif kind == "endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x" * 100)
        elif kind == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif kind == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        elif kind == "silent":
            time.sleep(5)
        elif kind == "loop":
            self.redirect("/loop")
        elif kind == "moved":
            self.redirect("/photo")
        elif kind == "file":
            self.redirect("file:///etc/hostname")
        else:
            self.send_error(404)

    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def redirect(self, where):
        self.send_response(302)
        self.send_header("Location", where)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *args: None  # the client hangs up on some answers
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def test_a_photo_from_the_web(server):
    assert fetch(f"{server}/photo") == b"pixels"
    assert fetch(f"{server}/moved") == b"pixels"
    assert Photo(f"{server}/photo").open() == b"pixels"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("long", "2.00 kB; at most 1.00 kB"),
        ("endless", "more than 1.00 kB"),
        ("cut", "broke off"),
        ("none", "404"),
        ("file", "no web address"),
        ("loop", "in a circle"),
    ],
)
def test_what_cannot_be_fetched(server, kind, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        fetch(f"{server}/{kind}", max_bytes=1000)
    assert f"{server}/{kind}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["drip", "silent"])
def test_a_slow_server_is_given_up(server, kind):
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"not complete after 0\.4 seconds"):
        fetch(f"{server}/{kind}", seconds=0.4)
    assert time.perf_counter() - start < 4  # the answers take five


def test_no_server():
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/photo.jpg", seconds=2)


def test_videos_and_archives_in_a_folder_are_told(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "clip").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0")
    (tmp_path / "more.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "notes.txt").write_text("hello")
    (photo,) = photos([str(tmp_path)])
    assert f"{', '.join(sorted(SUFFIXES))}). Left out, as no photos: a video, {tmp_path}/deep/clip" in photo.error
    assert photo.error.endswith(f"an archive, {tmp_path}/more.zip. Unpack it and give the folder")
    (tmp_path / "a.jpg").touch()
    with pytest.warns(VertebraWarning) as told:
        assert names(photos([str(tmp_path)]), tmp_path) == ["a.jpg"]
    assert [str(warning.message).partition(f"{tmp_path}/")[0] for warning in told] == [
        "Left out, as no photos: a video, ",
        "Left out, as no photos: an archive, ",
    ]
