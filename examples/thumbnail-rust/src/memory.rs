//! How much memory a picture takes while it is decoded, of what its first bytes say, and whether
//! there is that much. A file of a few hundred bytes can claim to be a picture of gigabytes.

use image::{ColorType, ImageDecoder};

/// For the tables of decoders, the lines that they work at, and the thumbnail.
const ALLOWANCE: u64 = 4 << 20;

/// Whether so many bytes can be had. Whoever serves this may have set a higher limit than usual
/// or a lower one, so that trying is the one way to know.
pub fn is_there(bytes: u64) -> bool {
    // What is given back here is what the decoder gets next.
    let mut room = Vec::<u8>::new();
    let had = usize::try_from(bytes).is_ok_and(|bytes| room.try_reserve_exact(bytes).is_ok());
    // Without this the compiler sees that the room is not used, and leaves the question out.
    std::hint::black_box(&room);
    had
}

/// Bytes at the peak, beside those of the file. The picture in full is most of it; the rest
/// follows what the decoders behind `image` 0.25 do. Where it is too little, the call ends for
/// want of memory, and nothing else does.
pub fn needed(file: &[u8], decoder: &impl ImageDecoder) -> u64 {
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let working = match file {
        // The decoder has a copy of the file.
        [0xff, 0xd8, ..] => file.len() as u64 + jpeg_coefficients(file).unwrap_or(0),
        [b'R', b'I', b'F', b'F', ..] => file.len() as u64 + pixels * webp_bytes_per_pixel(file),
        _ => 0,
    };
    let colour = decoder.color_type();
    let as_rgba = colour.has_alpha() && colour != ColorType::Rgba8;
    let copy = if as_rgba { 4 * pixels } else { 0 };
    decoder.total_bytes().saturating_add(working).saturating_add(copy).saturating_add(ALLOWANCE)
}

/// Beside the picture itself.
fn webp_bytes_per_pixel(file: &[u8]) -> u64 {
    match file.get(12..16) {
        // Brightness in full, the two colours at a quarter of it each.
        Some(b"VP8 ") => 2,
        // Four channels, of which the picture may want three.
        Some(b"VP8L") => 4,
        // With transparency or an animation: a canvas, a frame, and its alpha.
        _ => 10,
    }
}

/// A JPEG whose colours come in several passes, one finer than the other or one colour after the
/// other, is kept as two bytes for each coefficient until the last of them has come.
fn jpeg_coefficients(file: &[u8]) -> Option<u64> {
    let mut rest = file.get(2..)?;
    let mut frame = None;
    loop {
        let [0xff, marker, after @ ..] = rest else { return None };
        if *marker == 0xff {
            // Filling.
            rest = rest.get(1..)?;
            continue;
        }
        let length = usize::from(u16::from_be_bytes([*after.first()?, *after.get(1)?]));
        let segment = after.get(2..length)?;
        match marker {
            0xc0..=0xc2 => frame = Some((*marker, segment)),
            0xda => {
                let (kind, frame) = frame?;
                let in_one_pass = kind != 0xc2 && segment.first() == frame.get(5);
                return if in_one_pass { Some(0) } else { coefficients(frame) };
            }
            _ => {}
        }
        rest = after.get(length..)?;
    }
}

/// Of a frame header: T.81, B.2.2. Pictures consist of units, each with so many blocks of 8 by 8
/// of each component.
fn coefficients(frame: &[u8]) -> Option<u64> {
    let [_, h1, h0, w1, w0, _, components @ ..] = frame else { return None };
    let factors =
        || components.chunks_exact(3).map(|it| (u64::from(it[1] >> 4), u64::from(it[1] & 15)));
    let widest = factors().map(|(across, _)| across).max()?.max(1);
    let highest = factors().map(|(_, down)| down).max()?.max(1);
    let blocks: u64 = factors().map(|(across, down)| across * down).sum();
    let width = u64::from(u16::from_be_bytes([*w1, *w0]));
    let height = u64::from(u16::from_be_bytes([*h1, *h0]));
    let units = width.div_ceil(8 * widest) * height.div_ceil(8 * highest);
    Some(units * blocks * 64 * 2)
}
