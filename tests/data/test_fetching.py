"""Addresses in records: who may be asked, at which address, for how much and how long, and what is remembered."""

import ipaddress
import json
import socket
import threading

import pytest
import web_server
import yaml
from helpers import build_processor
from media_files import picture
from web_server import CERTIFICATE, Web, serve

from smol_hf import train
from smol_hf.data.addresses import AllowedHosts, FetchError, is_public, parse_address
from smol_hf.data.conversation import Conversation, ImagePart, Message, SampleError, TextPart
from smol_hf.data.fetched_images import ImageFetcher
from smol_hf.data.fetching import MAXIMUM_REDIRECTS, Clock, ask, chunks
from smol_hf.data.images import image_size
from smol_hf.data.skipped import SkippedSamples
from smol_hf.training.arguments import SmolTrainingArguments
from smol_hf.training.data import fetcher_of, look_through, open_data, plan_of
from smol_hf.training.data_arguments import DataArguments

PICTURE = picture(60, 40)


def fetch(url, *allowed, seconds=5.0, maximum=None):
    with ask(url, AllowedHosts(allowed), Clock(total=seconds)) as answer:
        return b"".join(chunks(answer, maximum))


def problem_of(url, *allowed, **limits):
    with pytest.raises(FetchError) as error:
        fetch(url, *allowed, **limits)
    return str(error.value)


@pytest.fixture
def resolver(monkeypatch):
    """{name: addresses}: what names mean here. Nothing outside this machine is ever asked."""
    names, real = {}, socket.getaddrinfo

    def getaddrinfo(host, port, *arguments, **options):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            if host not in names:
                raise socket.gaierror(f"unknown {host}") from None
            known = names[host]
            found = known.pop(0) if isinstance(known[0], list) else known
            return [entry for address in found for entry in real(address, port, *arguments, **options)]
        return real(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.fixture
def dialled(monkeypatch):
    """The addresses that are connected to; `to` is where every connection really goes."""

    class Dialled(list):
        to = None

    calls, real = Dialled(), socket.create_connection

    def create_connection(address, *arguments, **options):
        calls.append(address)
        if calls.to is None:
            raise ConnectionRefusedError("nobody there")
        host, _, port = calls.to.partition(":")
        return real((host, int(port)), *arguments, **options)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    return calls


# -- who may be asked -------------------------------------------------------------------------------------------------

NOT_PUBLIC = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "203.0.113.5", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "fe80::1", "fc00::1", "fd00:ec2::254",
    "fec0::1", "ff02::1", "2001:db8::1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "100::1",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_name_for_an_address_that_is_not_public_is_refused(address, resolver, dialled):
    assert not is_public(ipaddress.ip_address(address))
    resolver["images.example.org"] = [address]
    assert "not a public address" in problem_of("http://images.example.org/a.png", "images.example.org", "*")
    assert not dialled, "it is refused before anything is sent"


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_public(address):
    assert is_public(ipaddress.ip_address(address))


def test_one_bad_address_of_several_is_enough(resolver, dialled):
    resolver["images.example.org"] = ["93.184.216.34", "127.0.0.1"]
    assert "127.0.0.1" in problem_of("http://images.example.org/a.png", "*")
    assert not dialled


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/a.png", "http://127.0.0.1/a.png", "http://127.1/a.png", "http://2130706433/a.png",
        "http://0x7f000001/a.png", "http://0177.0.0.1/a.png", "http://[::1]/a.png", "http://[::ffff:127.0.0.1]/a.png",
        "http://169.254.169.254/latest/meta-data", "https://127.0.0.1./", "http://①②⑦.0.0.1/",
    ],
)  # fmt: skip
def test_however_this_machine_is_spelled_any_host_does_not_mean_it(url):
    assert problem_of(url, "*") and "answered" not in problem_of(url, "*")


@pytest.mark.parametrize(
    "url, problem",
    [
        ("file:///etc/passwd", "file is not http or https"),
        ("FILE:///etc/passwd", "file is not http or https"),
        ("ftp://example.org/a.png", "ftp is not"),
        ("data:image/png;base64,AAAA", "data is not"),
        ("gopher://example.org/", "gopher is not"),
        ("//example.org/a.png", "no scheme"),
        ("a.png", "no scheme"),
        ("http:///a.png", "names no host"),
        ("http://user:word@example.org/", "a name or a password"),
        ("http://example.org@127.0.0.1/", "a name or a password"),
        ("http://example.org\\@127.0.0.1/", "backslash"),
        ("http://example.org/\r\nHost: other", "control character"),
        ("http://exam\tple.org/", "control character"),
        ("http://example.org:99999/", "no address"),
        ("http://example.org:port/", "no address"),
        ("http://[::1/", "no address"),
        (f"http://{'a' * 64}.org/", "no name of a host"),
        ("http://a..b/", "no name of a host"),
        ("http://example.org/\ud800", "half of a character"),
        ("http://example.org/" + "a" * 9000, "more than 8192"),
        ("http://other.org/a.png", "host other.org is not among"),
        ("http://example.org.evil.com/", "not among"),
        ("http://notexample.org/", "not among"),
        ("http://example.org:8080/", "example.org:8080 is not among"),
        ("http://example.org:22/", "example.org:22 is not among"),
        ("https://example.org:80/", "example.org:80 is not among"),
        ("http://sub.example.org/", "not among"),
        ("http://pictures.net/", "not among"),
    ],
)  # fmt: skip
def test_an_address_that_may_not_be_asked_is_refused_before_it_is_resolved(url, problem, resolver, dialled):
    assert problem in problem_of(url, "example.org", "*.pictures.net")
    assert not dialled


@pytest.mark.parametrize(
    "entry, url",
    [
        ("example.org", "http://EXAMPLE.org./a.png"),
        ("Example.ORG", "https://example.org/a.png"),
        ("*.example.org", "https://a.b.example.org/"),
        ("example.org:8080", "http://example.org:8080/"),
        ("*", "https://anything.net/"),
        ("xn--bcher-kva.example", "https://bücher.example/"),
        ("[2606:4700::1111]:81", "http://[2606:4700::1111]:81/"),
    ],
)
def test_an_entry_allows_its_hosts(entry, url):
    AllowedHosts((entry,)).check(parse_address(url))


@pytest.mark.parametrize(
    "entry", ["", "http://example.org", "example.org/x", "*example.org", "a.*.org", "a b", "*.", 5, "::1"]
)
def test_an_entry_that_is_no_host_is_refused(entry):
    with pytest.raises(ValueError, match="is no host"):
        AllowedHosts((entry,))
    with pytest.raises(ValueError, match=r"^fetch_images.*is no host|must be a list of texts"):
        fetcher_of(DataArguments(fetch_images=["example.org", entry]))


def test_a_machine_of_ones_own_is_asked_only_where_it_is_spelled_out(resolver):
    web = Web({"/a.png": PICTURE})
    with serve(web) as place:
        port = place.partition(":")[2]
        assert fetch(f"http://{place}/a.png", place) == PICTURE
        resolver["mine.example.org"] = resolver["localhost"] = ["127.0.0.1"]
        for allowed in (f"localhost:{port}", f"mine.example.org:{port}", f"*:{port}"):
            host = allowed.partition(":")[0].replace("*", "127.0.0.1")
            assert "not a public address" in problem_of(f"http://{host}:{port}/a.png", allowed)
        assert "not among" in problem_of(f"http://{place}/a.png", "127.0.0.1", "*")
    assert len(web.requests) == 1
    for entry in ("169.254.169.254:80", "224.0.0.1:80", "0.0.0.0:80", "[fe80::1]:80"):
        assert "not a public address" in problem_of(f"http://{entry}/", entry), "nobody's own machine"


# -- how it is asked --------------------------------------------------------------------------------------------------


def test_a_name_is_resolved_once_and_the_checked_address_is_dialled(resolver, dialled):
    web = Web({"/a.png": PICTURE})
    with serve(web) as place:
        dialled.to = place
        resolver["images.example.org"] = [["93.184.216.34"], ["127.0.0.1"]]  # it changes its mind
        assert fetch("http://images.example.org/a.png", "images.example.org") == PICTURE
    assert dialled == [("93.184.216.34", 80)]
    [headers] = web.asked("/a.png")
    assert headers["Host"] == "images.example.org"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


def test_the_certificate_must_be_of_the_name(resolver, dialled, monkeypatch):
    with serve(Web({"/a.png": PICTURE}), tls=True) as place:
        dialled.to = place
        resolver["pictures.example.org"] = resolver["other.example.org"] = ["93.184.216.34"]
        assert "CERTIFICATE_VERIFY_FAILED" in problem_of("https://pictures.example.org/a.png", "*")
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert fetch("https://pictures.example.org/a.png", "*") == PICTURE
        assert "CERTIFICATE_VERIFY_FAILED" in problem_of("https://other.example.org/a.png", "*")


def test_proxies_and_netrc_are_not_used(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    proxy, web = Web({}), Web({"/a.png": PICTURE})
    with serve(proxy) as other, serve(web) as place:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{other}")
        assert fetch(f"http://{place}/a.png", place) == PICTURE
    assert not proxy.requests and "Authorization" not in web.requests[0][1]


def test_spaces_and_letters_of_any_script_are_sent_as_they_must_be():
    web = Web({"/a%20%C3%BC.png": PICTURE})
    with serve(web) as place:
        assert fetch(f"http://{place}/a ü.png?q=a b%20c#part", place) == PICTURE
    assert web.requests[0][0] == "/a%20%C3%BC.png?q=a%20b%20c"


def moved(place, status=302):
    return (status, {"Location": place}, b"")


def test_redirects_are_followed_five_times_and_each_is_checked(resolver):
    elsewhere = {"/loop": "/loop", "/file": "file:///etc/passwd", "/metadata": "http://169.254.169.254/latest",
                 "/local": "http://127.0.0.1:1/", "/name": "http://rebound.example.org/",
                 "/login": "http://me:word@example.org/"}  # fmt: skip
    web = Web({"/a.png": PICTURE, **{path: moved(place) for path, place in elsewhere.items()}})
    for number in range(MAXIMUM_REDIRECTS + 1):
        web.pages[f"/{number}"] = moved(f"/{number - 1}" if number else "a.png", 301 + number % 2)
    resolver["rebound.example.org"] = ["10.0.0.1"]
    with serve(web) as place:
        allowed = (place, "*")
        assert fetch(f"http://{place}/{MAXIMUM_REDIRECTS - 1}", *allowed) == PICTURE
        assert "more than 5 times" in problem_of(f"http://{place}/{MAXIMUM_REDIRECTS}", *allowed)
        assert "more than 5 times" in problem_of(f"http://{place}/loop", *allowed)
        assert len(web.asked("/loop")) == MAXIMUM_REDIRECTS + 1
        assert "file is not http" in problem_of(f"http://{place}/file", *allowed)
        assert "169.254.169.254, which is not" in problem_of(f"http://{place}/metadata", *allowed)
        assert "127.0.0.1:1 is not among" in problem_of(f"http://{place}/local", *allowed)
        assert "10.0.0.1, which is not" in problem_of(f"http://{place}/name", *allowed)
        assert "a name or a password" in problem_of(f"http://{place}/login", *allowed)
        assert "not among" in problem_of(f"http://{place}/name", place)


@pytest.mark.parametrize(
    "page, problem",
    [
        (web_server.dripping, "took too long"),
        (web_server.dripping_headers, "took too long"),
        (web_server.endless, "more than 1,000,000 bytes"),
        (bytes(1_000_001), "it has 1,000,001 bytes, more than 1,000,000"),
        ((200, {"Content-Length": "99999999999"}, b""), "99,999,999,999 bytes"),
        (web_server.cut, "broke after 500 of 1,000 bytes"),
        ((404, {}, b"gone"), "answered 404 Not Found"),
        ((500, {}, b""), "answered 500"),
        ((206, {}, PICTURE), "answered 206"),
        ((302, {}, b""), "answered 302"),
        ((200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"), "compressed"),
        (lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n"), "cannot be reached: BadStatusLine"),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"), "HTTPException"),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\na: " + b"b" * 70000), "LineTooLong"),
        (lambda handler: setattr(handler, "close_connection", True), "RemoteDisconnected"),
        ((200, {"Transfer-Encoding": "chunked"}, b"zz\r\n"), "cannot be reached"),
    ],
)  # fmt: skip
def test_a_server_of_bad_manners_costs_little_and_is_named(page, problem):
    with serve(Web({"/a.png": page})) as place:
        seconds = 0.3 if "too long" in problem else 10
        assert problem in problem_of(f"http://{place}/a.png", place, seconds=seconds, maximum=1_000_000)


def test_a_resolver_that_does_not_answer_is_not_waited_for(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: released.wait(30))
    assert "was not resolved in time" in problem_of("http://slow.example.org/", "*", seconds=0.05)
    released.set()


# -- what is kept -----------------------------------------------------------------------------------------------------


def shown(url):
    parts = (ImagePart(url=url), TextPart("What?"))
    return Conversation("rows:1", (Message("user", parts), Message("assistant", (TextPart("Red."),))))


def fetcher(folder, *hosts, **limits):
    return ImageFetcher(AllowedHosts(hosts), folder=folder, **limits)


def test_an_image_is_fetched_once_and_read_as_any_other(tmp_path):
    web = Web({"/a.png": PICTURE})
    with serve(web) as place:
        url = f"http://{place}/a.png"
        for _ in range(3):
            [image] = fetcher(tmp_path, place).bring(shown(url)).images
            assert image_size(image, "rows:1") == (40, 60)
    assert len(web.requests) == 1
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(SampleError, match=r"rows:1: 'http.*a\.png' is not fetched: the host 127.* not among"):
        fetcher(tmp_path, "example.org").bring(shown(url))


def test_what_failed_stays_failed_until_its_marker_is_deleted_or_the_limits_change(tmp_path):
    web = Web({})
    with serve(web) as place:
        url = f"http://{place}/late.png"
        for expected in ("answered 404 Not Found$", r"answered 404 Not Found \(remembered: delete .*\.failed to"):
            with pytest.raises(SampleError, match=expected):
                fetcher(tmp_path, place).bring(shown(url))
        assert len(web.requests) == 1
        web.pages["/late.png"] = PICTURE
        with pytest.raises(SampleError, match="remembered"):
            fetcher(tmp_path, place).bring(shown(url))
        assert fetcher(tmp_path, place, timeout=9.0).bring(shown(url)).images[0].path
        web.pages["/late.png"] = b"changed"
        [image] = fetcher(tmp_path, place).bring(shown(url)).images
        assert image.open().read() == PICTURE, "and what was fetched stays, too"
        with pytest.raises(SampleError, match="404"):
            fetcher(tmp_path, place).bring(shown(f"http://{place}/other.png"))
        [marker] = tmp_path.rglob("*.failed")
        assert json.loads(marker.read_text())["url"].endswith("other.png")
        marker.unlink()
        web.pages["/other.png"] = PICTURE
        assert fetcher(tmp_path, place).bring(shown(f"http://{place}/other.png")).images[0].path


def test_several_processes_fetch_once(tmp_path):
    """Threads here: the lock is between open files."""
    web, found = Web({"/a.png": PICTURE}), []
    with serve(web) as place:

        def bring():
            found.append(fetcher(tmp_path, place, timeout=60.0).bring(shown(f"http://{place}/a.png")).images[0].path)

        threads = [threading.Thread(target=bring) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(web.requests) == 1 and len(found) == 8 and len(set(found)) == 1


def test_what_is_fetched_and_is_no_picture_is_named_by_its_address(tmp_path):
    with serve(Web({"/a.png": b"<html>"})) as place:
        [image] = fetcher(tmp_path, place).bring(shown(f"http://{place}/a.png")).images
        with pytest.raises(SampleError, match=r"rows:1: http://127.*/a\.png is not an image"):
            image_size(image, "rows:1")


@pytest.mark.parametrize(
    "limits", [{"timeout": 0}, {"max_bytes": 0}, {"max_bytes": 300_000_001}, {"timeout": float("nan")}]
)
def test_limits_that_are_none_are_refused(limits):
    with pytest.raises(ValueError, match="it must be"):
        ImageFetcher(**limits)


# -- in a run ---------------------------------------------------------------------------------------------------------


def survey_of(path, tmp_path, **keys):
    arguments = DataArguments(context_length=256, fetch_cache=str(tmp_path / "fetched"), **keys)
    data = open_data(arguments, seed=0)
    skipped = SkippedSamples("skip", max_fraction=1.0, path=tmp_path / "skipped.jsonl")
    training = SmolTrainingArguments(output_dir="unused", max_steps=1, use_cpu=True)
    look_through(plan_of(data, build_processor(), arguments, training, 1), data, arguments, skipped)
    return skipped


def test_a_recipe_switches_fetching_on(tmp_path):
    web = Web({"/a.png": PICTURE, "/b.png": b"no picture"})
    with serve(web) as place:
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
        rows = [
            {"image_url": f"http://{place}/a.png", "caption": "Red and blue."},
            {"image": f"http://{place}/a.png", "conversations": turns},
            {"image_url": f"http://{place}/b.png", "caption": "Nothing."},
            {"image_url": "http://elsewhere.example.org/a.png", "caption": "Nothing."},
            {"image": "file:///etc/passwd", "conversations": turns},
            {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]},
        ]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        skipped = survey_of(path, tmp_path, data=str(path), fetch_images=[place])
        assert [fault.where for fault in skipped.faults] == ["rows.jsonl:3", "rows.jsonl:4", "rows.jsonl:5"]
        assert len(web.asked("/a.png")) == 1 and len(web.asked("/b.png")) == 1
        entries = [{"data": str(path), "fetch_images": [place]}, {"data": str(path), "name": "off"}]
        skipped = survey_of(path, tmp_path, mixture=entries)
        assert len([fault for fault in skipped.faults if fault.where.startswith("off/")]) == 5
        assert len(skipped.faults) == 8 and len(web.requests) == 2
        problems = {fault.where: fault.problem for fault in skipped.faults}
        assert "allow its host under fetch_images" in problems["off/rows.jsonl:1"]
        assert "allow the host of an image under fetch_images" in problems["off/rows.jsonl:2"]


def test_a_run_with_workers_fetches_each_image_once_and_names_what_failed(tmp_path, capsys):
    web = Web({f"/{number}.png": PICTURE for number in range(8)})
    with serve(web) as place:
        rows = [{"image_url": f"http://{place}/{number}.png", "caption": "Red."} for number in range(10)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = {"preset": "tiny-vlm", "data": str(tmp_path / "rows.jsonl"), "fetch_images": [place], "max_steps": 6,
                  "fetch_cache": str(tmp_path / "fetched"), "fetch_timeout": 30.0, "context_length": 128,
                  "use_cpu": True, "save_strategy": "no", "on_bad_sample": "skip", "max_skipped_fraction": 0.2,
                  "dataloader_num_workers": 2, "output_dir": str(tmp_path / "run")}  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert train.main(["--config", str(tmp_path / "recipe.yaml")]) == 0
    assert "8 samples from rows.jsonl; 2 samples left out: 2 unusable" in capsys.readouterr().out
    assert sorted(path for path, _ in web.requests) == [f"/{number}.png" for number in range(10)]
    named = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert [entry["sample"] for entry in named] == ["rows.jsonl:9", "rows.jsonl:10"]
    assert all("answered 404" in entry["reason"] for entry in named)
