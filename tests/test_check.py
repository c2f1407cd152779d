"""`marginwatch check` without asking anybody: all that a newcomer can get wrong, at once, each with its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.commands import check
from tests.rig import private_file

KEY, SECRET = "k" * 64, "s" * 64


def write(folder: Path, text: str = "", *, key: str = KEY, secret: str = SECRET) -> Path:
    """A config of one account, its secrets in files, and some further text."""
    private_file(folder / "main.key", key)
    private_file(folder / "main.secret", secret)
    account = f"""
[[account]]
name = "main"
venue = "binance-usdm"
api_key = "file:{folder}/main.key"
secret = "file:{folder}/main.secret"
"""
    store = "" if "[store]" in text else f'[store]\npath = "{folder}/store.sqlite3"\n'
    return private_file(folder / "config.toml", text + "\n" + store + account)


def checked(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    """Exit status, lines, and what is said at the end."""
    status = check.main(str(path))
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    assert SECRET not in said.out + said.err
    return status, said.out.splitlines(), said.err


def test_check_finds_what_is_wrong_with_the_config_and_with_its_secrets_in_one_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an account that is wrong otherwise too; whoever mends one mistake should not be sent back for the next."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[[account]]\nname = "main"\nvenue = "binance"\napi_key = "file:/nowhere/{name}"\nsecret = "env:NOT_THERE"\n'
        '[mqtt]\nprot = 1\nusername = "u"\npassword = "env:NOT_THERE_EITHER"\n',
        "utf-8",
    )

    assert check.main(str(path)) == 1
    found = capsys.readouterr()
    said = found.out.splitlines()
    assert [line.removeprefix(f"error    {path}: ").partition(":")[0] for line in said] == [
        '[[account]] "main" venue',
        "[mqtt] prot",
        "[mqtt] password (env",
        '[[account]] "main" api_key (file',
        '[[account]] "main" secret (env',
    ]
    assert "/nowhere/main cannot be read" in said[3]
    assert found.err == "5 to mend\n"


def test_a_config_that_is_right_says_so_with_what_is_watched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person who sees nothing does not know whether anything was looked at."""
    path = write(tmp_path)

    status, lines, end = checked(path, capsys)

    assert (status, end) == (0, "nothing to mend\n")
    assert lines == [f"ok       {path}: accounts main (binance-usdm, live); broker localhost:1883"]


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        ('include = ["accounts.d/*.toml"]', 'include: "accounts.d/*.toml" fits no file', "patterns are below"),
        ("[mqtt]\nport = 8883", "[mqtt] port 8883 is the usual one with TLS", "tls = true"),
        ("[mqtt]\ntls = true", "[mqtt] port 1883 is the usual one without TLS", "port = 8883"),
        ("[mqtt]\ntls_insecure = true", "[mqtt] tls_insecure: without effect, since tls is false", "tls = true"),
        (
            '[mqtt]\nhost = "broker.lan"\nusername = "m"\npassword = "file:{folder}/main.secret"',
            "[mqtt] password: goes to broker.lan unencrypted",
            "tls = true",
        ),
        ('[mqtt]\nprefix = "homeassistant/risk"', "is below what Home Assistant reads for discovery", "another one"),
    ],
)
def test_what_works_and_could_be_better_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str, remedy: str
) -> None:
    """It is told with its remedy, and fails nothing: the daemon would run."""
    path = write(tmp_path, text.replace("{folder}", str(tmp_path)))

    status, lines, end = checked(path, capsys)

    assert (status, end) == (0, "nothing to mend, 1 warning\n")
    assert lines[0].startswith("warning  ")
    assert said in lines[0]
    assert lines[1].startswith(f"         → {remedy}")


@pytest.mark.parametrize("wanted", ['account "mian*"', 'label.desk "momentum"'])
def test_an_override_that_is_never_in_force_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: str
) -> None:
    """Its author relies on levels that nobody is held to."""
    fits = '[[rules.margin_ratio.match]]\naccount = "m*n"\nsymbol = "BTC*"\nmin_notional = 5\nfor_s = 1\n'
    path = write(tmp_path, f"{fits}[[rules.margin_ratio.match]]\n{wanted.replace(' ', ' = ')}\nenabled = false\n")

    status, lines, end = checked(path, capsys)

    assert (status, end) == (0, "nothing to mend, 1 warning\n")
    assert lines[0].startswith(f"warning  {path}: [[rules.margin_ratio.match]] number 2: {wanted} fits no account")
    assert "there are main" in lines[1]


def test_whether_an_override_fits_is_not_judged_by_half_of_the_accounts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it is for may be the one that does not read yet."""
    path = write(tmp_path, '[[rules.margin_ratio.match]]\naccount = "second"\nfor_s = 1\n')
    with path.open("a") as file:
        file.write('[[account]]\nname = "second"\nvenue = "binance"\n')

    assert "fits no account" not in "".join(checked(path, capsys)[1])


def test_an_address_that_is_a_secret_wants_a_config_that_only_its_owner_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever knows the address of a heartbeat can say that all is well."""
    path = write(tmp_path, '[heartbeat]\nurl = "https://hc-ping.com/0a1b2c3d"')
    quiet = checked(path, capsys)
    path.chmod(0o644)
    status, lines, _ = checked(path, capsys)

    assert quiet[1][0].startswith("ok ")
    assert status == 0
    assert lines[0] == f"warning  {path}: [heartbeat] url: an address that is a secret, in a file that others can read"
    assert f"chmod 600 {path}" in lines[1]
    assert "0a1b2c3d" not in "".join(lines)


def test_the_mark_that_some_editors_put_at_the_beginning_is_no_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody sees it; "invalid statement at line 1, column 1" sent people looking for what is not there."""
    path = write(tmp_path)
    path.write_text(path.read_text("utf-8"), "utf-8-sig")

    status, _, said = checked(path, capsys)

    assert (status, said) == (0, "nothing to mend\n")


def test_a_config_that_others_can_write_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They could switch the alerts off."""
    path = write(tmp_path)
    path.chmod(0o620)

    assert f"chmod go-w {path}" in checked(path, capsys)[1][1]


@pytest.mark.parametrize("what", ["text", "folder"])
def test_files_of_tls_that_are_none_are_found_before_the_broker_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """The daemon would run, and reach no broker."""
    file = tmp_path / "ca"
    file.mkdir() if what == "folder" else file.write_text("no certificate", "utf-8")
    path = write(tmp_path, f'[mqtt]\ntls = true\nport = 8883\ntls_ca_file = "{file}"')

    status, lines, _ = checked(path, capsys)

    assert status == 1
    assert lines[0].startswith("error    [mqtt] tls_ca_file cannot be used: ")
    assert "-----BEGIN" in lines[1]


def test_key_and_secret_in_each_others_place_or_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The most usual slip of the clipboard."""
    status, lines, _ = checked(write(tmp_path, secret=KEY), capsys)

    assert status == 1
    assert lines[0] == 'error    [[account]] "main": api_key and secret are the same text'


def test_a_private_key_in_place_of_a_secret_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Binance offers two kinds of key; only one of them has a secret."""
    status, lines, _ = checked(write(tmp_path, secret="-----BEGIN PRIVATE KEY-----\nMC4C\n"), capsys)

    assert status == 1
    assert "is an RSA or Ed25519 key; make an API key that the exchange generates (HMAC), read-only" in lines[0]
    assert "MC4C" not in lines[0]


def test_one_account_under_two_names_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every alert would come twice, and the two would compete for one private stream."""
    twin = f"""
[[account]]
name = "twin"
venue = "binance-usdm"
api_key = "file:{tmp_path}/main.key"
secret = "file:{tmp_path}/main.secret"
[[account]]
name = "coin"
venue = "binance-coinm"
api_key = "file:{tmp_path}/main.key"
secret = "file:{tmp_path}/main.secret"
"""
    path = write(tmp_path)
    path.write_text(path.read_text("utf-8") + twin, "utf-8")

    status, lines, _ = checked(path, capsys)

    assert status == 1
    assert [line for line in lines if line.startswith("error")] == [
        'error    [[account]] "twin": has the key of "main" on the same market, so that one account is watched twice'
    ]


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("{folder}", "is a folder; name a file in it"),
        ("{folder}/main.key/store", "cannot be made by this user"),
        ("{folder}/main.key", "cannot be used: "),
    ],
    ids=["a folder", "below a file", "another file"],
)
def test_a_store_that_the_daemon_could_not_use_is_found_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], store: str, said: str
) -> None:
    """The daemon would go on without it, and forget."""
    path = write(tmp_path, f'[store]\npath = "{store.replace("{folder}", str(tmp_path))}"')

    status, lines, _ = checked(path, capsys)

    assert status == 1
    assert any(line.startswith("error    [store] path: ") and said in line for line in lines)
