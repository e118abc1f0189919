"""A file or folder by path or URI: both kinds answer alike."""

from vertebra.storage import Location


def test_a_file_in_s3_is_written_listed_and_read(s3):
    file = Location(s3.uri) / "photos" / "1.txt"
    file.write(b"hello")
    assert s3.get("photos/1.txt") == b"hello"
    assert file.read_bytes() == b"hello"
    assert [entry.location for entry in Location(f"{s3.uri}/photos").list()] == [file]
