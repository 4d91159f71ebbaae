"""F11: damaged recordings are read as far as they are whole, the loss is said, and no length in them is believed."""

import struct
import tracemalloc
import zlib

import lz4.frame
import numpy as np
import pytest
from backports import zstd
from recorded_bags import write_mcap
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from diwa_runtime.errors import InputError
from diwa_trainer.ingest.bags import find_bags
from diwa_trainer.ingest.mcap import MAGIC, DamagedError, McapFile

PAYLOADS = [bytes([number % 256]) * 100_000 for number in range(60)]
CHUNK, MESSAGE = 0x06, 0x05


def write_file(folder, compression=CompressionMode.NONE):
    """Write 60 messages of 100 kB: several chunks."""
    writer = Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/data", "x/msg/Y", msgdef="uint8 a\n", rihs01="h")
        for number, payload in enumerate(PAYLOADS):
            writer.write(connection, 1000 + number, payload)
    return folder / "bag" / "bag.mcap"


def records_of(data):
    """Yield (code, where its length stands, length) of each record up to the magic at the end."""
    at = len(MAGIC)
    while at < len(data) - len(MAGIC):
        code, length = struct.unpack_from("<BQ", data, at)
        yield code, at + 1, length
        at += 9 + length


def read(path, skip_damaged=False):
    file = McapFile(path, skip_damaged)
    return [bytes(message.data) for message in file.messages()], file.losses


@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.STORAGE], ids=["plain", "zstd"])
def test_all_messages_are_read_in_order(tmp_path, compression):
    payloads, losses = read(write_file(tmp_path, compression))

    assert payloads == PAYLOADS
    assert losses == []


def rewritten(path, change):
    """Pass each chunk's (head, records) through `change`; the index at the end is left out."""
    data = path.read_bytes()
    out = bytearray(MAGIC)
    for code, at, length in records_of(data):
        body = data[at + 8 : at + 8 + length]
        if code == CHUNK:
            body = change(body)
        out += struct.pack("<BQ", code, len(body)) + body
    path.write_bytes(bytes(out) + MAGIC)
    return path


def chunk(body, compress=lambda records: ("", records), size=None, checksum=0):
    records = body[40:]  # 28 bytes of head, no compression, 8 bytes of length
    name, packed = compress(records)
    head = body[:16] + struct.pack("<QI", len(records) if size is None else size, checksum)
    return head + struct.pack("<I", len(name)) + name.encode() + struct.pack("<Q", len(packed)) + packed


def test_chunks_packed_by_lz4_are_read(tmp_path):
    path = rewritten(write_file(tmp_path), lambda body: chunk(body, lambda r: ("lz4", lz4.frame.compress(r))))

    assert read(path) == (PAYLOADS, [])


def test_right_checksums_are_accepted(tmp_path):
    path = rewritten(write_file(tmp_path), lambda body: chunk(body, checksum=zlib.crc32(body[40:])))

    assert read(path) == (PAYLOADS, [])


@pytest.mark.parametrize("share", np.random.default_rng(11).random(20).tolist())
def test_a_file_that_was_cut_off_is_read_up_to_its_last_whole_chunk(tmp_path, share):
    path = write_file(tmp_path)
    data = path.read_bytes()
    size = int(share * len(data))
    path.write_bytes(data[:size])
    ends = [(at + 8 + length, code) for code, at, length in records_of(data)]
    whole_chunks = sum(1 for end, code in ends if code == CHUNK and end <= size)

    payloads, losses = read(path)

    assert payloads == PAYLOADS[: len(payloads)]
    assert len(payloads) == min(whole_chunks * (2**20 // 100_031 + 1), len(PAYLOADS))
    assert len(losses) == (0 if any(code == 0x0F and end <= size for end, code in ends) else 1)
    assert all("was cut off" in loss and f"{path}" in loss for loss in losses)


def damage_checksum(path):
    """Make the second chunk's checksum wrong."""
    numbers = iter(range(100))
    return rewritten(path, lambda body: chunk(body, checksum=12345 if next(numbers) == 1 else 0))


def damage_size(path):
    """Let the second chunk claim to unpack to 16 exabytes."""
    numbers = iter(range(100))
    return rewritten(path, lambda body: chunk(body, size=2**64 - 1 if next(numbers) == 1 else None))


def damage_bytes(path):
    """Turn the second chunk's records into noise."""
    noise, numbers = np.random.default_rng(0), iter(range(100))

    def change(body):
        return chunk(body[:40] + noise.bytes(len(body) - 40)) if next(numbers) == 1 else body

    return rewritten(path, change)


def bomb(path):
    """Let the second chunk unpack to far more than it claims."""
    numbers = iter(range(100))

    def change(body):
        packed = ("zstd", zstd.compress(bytes(2**28)))
        return chunk(body, lambda _: packed) if next(numbers) == 1 else body

    return rewritten(path, change)


@pytest.mark.parametrize("damage", [damage_checksum, damage_size, damage_bytes, bomb])
def test_a_damaged_chunk_is_refused_or_left_out_without_a_blow_up(tmp_path, damage):
    path = damage(write_file(tmp_path))
    a_chunk = 2**20 // 100_031 + 1

    with pytest.raises(DamagedError, match=r"bag.mcap: .* bytes at offset .* are damaged.*--skip-damaged"):
        read(path)
    tracemalloc.start()
    payloads, losses = read(path, skip_damaged=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert payloads == PAYLOADS[:a_chunk] + PAYLOADS[2 * a_chunk :]
    assert len(losses) == 1
    assert peak < 60e6


def test_a_record_that_claims_exabytes_is_refused_or_ends_the_file(tmp_path):
    path = write_file(tmp_path)
    data = bytearray(path.read_bytes())
    third = [at for code, at, _ in records_of(data) if code == CHUNK][2]
    data[third : third + 8] = struct.pack("<Q", 2**63)
    path.write_bytes(data)

    with pytest.raises(DamagedError, match=f"a record at offset {third - 1:,} claims 9,223,372,036,854,775,808 bytes"):
        read(path)
    payloads, losses = read(path, skip_damaged=True)

    assert payloads == PAYLOADS[: len(payloads)]
    assert len(payloads) == 2 * (2**20 // 100_031 + 1)
    assert f"from there on {len(data) - third + 1:,} are lost" in losses[0]


def test_a_damaged_first_chunk_does_not_cost_the_others_their_topics(tmp_path):
    path = write_file(tmp_path)
    data = bytearray(path.read_bytes())
    first = next(at for code, at, _ in records_of(data) if code == CHUNK)
    first_record = first + 8 + 40
    data[first_record + 1 : first_record + 9] = b"\xff" * 8
    path.write_bytes(data)

    payloads, losses = read(path, skip_damaged=True)

    assert payloads == PAYLOADS[2**20 // 100_031 + 1 :]
    assert len(losses) == 1


def test_another_file_is_no_bag(tmp_path):
    (tmp_path / "bag.mcap").write_bytes(b"PK\x03\x04 something else")

    with pytest.raises(InputError, match="not an MCAP file"):
        read(tmp_path / "bag.mcap")


@pytest.mark.parametrize("seed", range(30))
def test_noise_is_refused_or_read_but_never_crashes(tmp_path, seed):
    """Any bytes may be wrong: what comes is a message as recorded, or one line."""
    rng = np.random.default_rng(seed)
    path = write_file(tmp_path)
    data = bytearray(path.read_bytes())
    for at in rng.integers(0, 4096, 8):
        data[at] = rng.integers(256)
    path.write_bytes(data)

    payloads, complaint = read_or_complaint(path, skip_damaged=bool(seed % 2))

    assert complaint == "" or (str(path) in complaint and "\n" not in complaint)
    assert all(len(payload) < 2 * len(PAYLOADS[0]) for payload in payloads)


def read_or_complaint(path, skip_damaged):
    try:
        return read(path, skip_damaged)[0], ""
    except InputError as error:
        return [], str(error)


A_CHUNK = 2**20 // 100_031 + 1


@pytest.mark.parametrize(
    "tail",
    [bytes(5000), np.random.default_rng(1).bytes(5000), b"\xff" * 5000, b"old text " * 500],
    ids=["zeros", "noise", "ones", "another file's"],
)
def test_what_a_crash_left_after_the_last_whole_record_is_cut_off_and_counted(tmp_path, tail):
    path = write_file(tmp_path)
    data = path.read_bytes()
    third = [at for code, at, _ in records_of(data) if code == CHUNK][2] - 1
    path.write_bytes(data[:third] + tail)

    payloads, losses = read(path)

    assert payloads == PAYLOADS[: 2 * A_CHUNK]
    assert losses == [f"{path}: was cut off; read up to its last whole chunk, the last {len(tail):,} bytes lost"]


@pytest.mark.parametrize("tail", [b"", bytes(5000)], ids=["the end", "zeros"])
def test_a_last_chunk_of_which_a_part_was_never_written_is_cut_off(tmp_path, tail):
    path = write_file(tmp_path)
    data = bytearray(path.read_bytes())
    at, length = [(at, length) for code, at, length in records_of(data) if code == CHUNK][1]
    end = at + 8 + length
    data[end - 500_000 : end] = bytes(500_000)
    path.write_bytes(data[:end] + tail)

    payloads, losses = read(path)

    assert payloads == PAYLOADS[:A_CHUNK]
    assert f"the last {end - at + 1 + len(tail):,} bytes lost" in losses[0]


def test_a_message_outside_of_chunks_before_a_spoilt_end_is_not_believed(tmp_path):
    path = write_mcap(tmp_path / "bag.mcap", [("data", "x/msg/Y", number, bytes([number]) * 50) for number in range(9)])
    data = path.read_bytes()
    sixth = [at for code, at, _ in records_of(data) if code == MESSAGE][5]
    path.write_bytes(data[: sixth + 40] + bytes(5000))

    assert read(path)[0] == [bytes([number]) * 50 for number in range(5)]


@pytest.mark.parametrize("frame_bytes", [10**9, 700_001], ids=["one frame", "several frames"])
def test_a_file_that_is_packed_as_a_whole_is_read_without_a_blow_up(tmp_path, frame_bytes):
    path = write_file(tmp_path)
    data = path.read_bytes()
    skippable = struct.pack("<II", 0x184D2A50, 8) + b"whatever"
    path.write_bytes(
        skippable + b"".join(zstd.compress(data[at : at + frame_bytes]) for at in range(0, len(data), frame_bytes))
    )
    file = McapFile(path)
    tracemalloc.start()
    count = sum(bytes(message.data) == PAYLOADS[number] for number, message in enumerate(file.messages()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (count, file.losses) == (len(PAYLOADS), [])
    assert peak < 8e6, "6 MB are in the file, in chunks of 1 MB"


def packed_noise(path, levels=256):
    """Pack a file that is hardly made smaller, so that a cut through the packing cuts through what is packed."""
    noise = np.random.default_rng(3).integers(0, levels, (20, 100_000), dtype=np.uint8)
    messages = [("data", "x/msg/Y", number, payload.tobytes()) for number, payload in enumerate(noise)]
    return [message[3] for message in messages], zstd.compress(write_mcap(path, messages).read_bytes())


@pytest.mark.parametrize("levels", [256, 100], ids=["as it is", "smaller"])
@pytest.mark.parametrize("tail", [b"", bytes(500_000)], ids=["cut", "zeros"])
def test_a_packed_file_that_was_cut_off_is_read_up_to_the_cut(tmp_path, tail, levels):
    path = tmp_path / "bag.mcap.zstd"
    wanted, packed = packed_noise(path, levels)
    path.write_bytes(packed[: len(packed) // 2] + tail)

    payloads, losses = read(path)

    assert payloads == wanted[: len(payloads)]
    assert 8 <= len(payloads) <= 10
    assert len(losses) == 1
    assert "was cut off" in losses[0]


def test_a_packed_file_that_is_damaged_is_refused_or_read_up_to_the_damage(tmp_path):
    path = tmp_path / "bag.mcap.zstd"
    wanted, packed = packed_noise(path)
    half = len(packed) // 2
    path.write_bytes(packed[:half] + b"\xff" * 200_000 + packed[half + 200_000 :])

    with pytest.raises(DamagedError, match=r"bag.mcap.zstd: .*damaged.*--skip-damaged"):
        read(path)
    payloads, losses = read(path, skip_damaged=True)

    assert payloads[:8] == wanted[:8]
    assert len(payloads) < 12, "the packing has no checksum: a message may be spoilt, and is read"
    assert len(losses) == 1


def test_a_damaged_first_chunk_does_not_cost_a_packed_file_its_topics(tmp_path):
    path = write_file(tmp_path)
    data = bytearray(path.read_bytes())
    first = next(at for code, at, _ in records_of(data) if code == CHUNK)
    data[first + 49 : first + 57] = b"\xff" * 8
    path.write_bytes(zstd.compress(bytes(data)))

    payloads, losses = read(path, skip_damaged=True)

    assert payloads == PAYLOADS[A_CHUNK:]
    assert len(losses) == 1


def test_nothing_of_a_channel_is_decoded_before_it_is_asked_for(tmp_path):
    def foreign(*_):
        return b"/\xff\xb0", b"\xfe", b"protobuf", b"\xff\xfe\xfd"

    path = write_mcap(tmp_path / "bag.mcap", [("data", "x/msg/Y", 1, b"abcd")], foreign)

    assert read(path) == ([b"abcd"], [])


def test_split_files_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 100):
        (tmp_path / f"run_{number}.mcap").write_bytes(MAGIC)

    (bag,) = find_bags([tmp_path])

    assert [path.name for path in bag.files] == ["run_9.mcap", "run_10.mcap", "run_100.mcap"]
