//! Thumbnails of PNG, JPEG and WebP, from whoever sends them: what an image says of itself is
//! checked against the memory that a call has before any of it is decoded.

use std::io::Cursor;

use exports::example::thumbnail::api::{Format, Guest, Problem};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::imageops::FilterType;
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageFormat,
    ImageReader, Limits, RgbImage, RgbaImage,
};

mod memory;

wit_bindgen::generate!({ path: "wit", world: "plugin" });

/// The largest side that can be asked for, in pixels. A thumbnail is something small.
const MAX_SIDE: u32 = 2048;

/// Of 100. Above it files grow faster than anybody can see.
const JPEG_QUALITY: u8 = 82;

/// Most that the parts of a PNG beside the picture, which are compressed too, may unfold to.
const MAX_METADATA: u64 = 4 << 20;

/// The largest colour profile that is worth its bytes. Those of cameras and screens have one to
/// four KiB, those of printing presses hundreds, which nobody needs in a thumbnail.
const MAX_PROFILE: usize = 8 << 10;

struct Plugin;

impl Guest for Plugin {
    fn thumbnail(
        image: Vec<u8>,
        width: u32,
        height: u32,
        format: Option<Format>,
    ) -> Result<Vec<u8>, Problem> {
        let sides = 1..=MAX_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) {
            let message = format!("{width} x {height}; a side has 1 to {MAX_SIDE} pixels");
            return Err(Problem::BadSize(message));
        }
        thumbnail(&image, (width, height), format.unwrap_or(Format::Jpeg))
    }
}

export!(Plugin);

fn thumbnail(bytes: &[u8], most: (u32, u32), format: Format) -> Result<Vec<u8>, Problem> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), known_format(bytes)?);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_METADATA);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(unreadable)?;

    let (width, height) = decoder.dimensions();
    if !memory::is_there(memory::needed(bytes, &decoder)) {
        let message = format!("{width} x {height} pixels take more memory than a call has");
        return Err(Problem::TooLarge(message));
    }
    // A broken note about the camera is no reason to refuse the picture.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let profile = decoder.icc_profile().ok().flatten().filter(|profile| is_worth_keeping(profile));

    let mut picture = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    let transparent = picture.color().has_alpha();
    if transparent {
        // The colour of what cannot be seen must not run into what can.
        let mut pixels = picture.into_rgba8();
        multiply_by_alpha(&mut pixels);
        picture = pixels.into();
    }
    // Turned by a quarter at the end, it has to fit the other way round.
    let quarter = orientation.to_exif() >= 5;
    picture = shrink(picture, if quarter { (most.1, most.0) } else { most });
    picture.apply_orientation(orientation);

    match format {
        Format::Jpeg if transparent => jpeg(&on_white(&picture.into_rgba8()), profile),
        Format::Jpeg => jpeg(&picture.into_rgb8(), profile),
        Format::Png if transparent => {
            let mut pixels = picture.into_rgba8();
            divide_by_alpha(&mut pixels);
            png(&pixels, pixels.dimensions(), ExtendedColorType::Rgba8, profile)
        }
        Format::Png => {
            let pixels = picture.into_rgb8();
            png(&pixels, pixels.dimensions(), ExtendedColorType::Rgb8, profile)
        }
    }
}

/// By what the bytes begin with; names and content types lie.
fn known_format(bytes: &[u8]) -> Result<ImageFormat, Problem> {
    match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => Ok(format),
        Ok(other) => {
            Err(Problem::NotAnImage(format!("it begins as {} does", other.to_mime_type())))
        }
        Err(_) => Err(Problem::NotAnImage("it begins as no image does".to_owned())),
    }
}

fn unreadable(error: ImageError) -> Problem {
    let message = error.to_string().trim_end().to_owned();
    match error {
        ImageError::Limits(_) => Problem::TooLarge(message),
        _ => Problem::Damaged(message),
    }
}

/// Of colours as the thumbnail has them: one for grey or for inks would make nonsense of them.
fn is_worth_keeping(profile: &[u8]) -> bool {
    // The colour space, in the header of ICC.1.
    profile.len() <= MAX_PROFILE && profile.get(16..20) == Some(b"RGB ")
}

/// To twice the size by a cheap average of whole pixels, and from there with care.
fn shrink(picture: DynamicImage, (width, height): (u32, u32)) -> DynamicImage {
    if picture.width() <= width && picture.height() <= height {
        return picture;
    }
    let rough = if picture.width() > 4 * width || picture.height() > 4 * height {
        picture.thumbnail(2 * width, 2 * height)
    } else {
        picture
    };
    rough.resize(width, height, FilterType::CatmullRom)
}

fn multiply_by_alpha(pixels: &mut RgbaImage) {
    for pixel in pixels.pixels_mut() {
        let [red, green, blue, alpha] = pixel.0;
        let part = |colour: u8| ((u16::from(colour) * u16::from(alpha) + 127) / 255) as u8;
        pixel.0 = [part(red), part(green), part(blue), alpha];
    }
}

fn divide_by_alpha(pixels: &mut RgbaImage) {
    for pixel in pixels.pixels_mut() {
        let [red, green, blue, alpha] = pixel.0;
        let whole = |colour: u8| match (u16::from(colour) * 255).checked_div(u16::from(alpha)) {
            // Averages of bytes are a little off.
            Some(whole) => whole.min(255) as u8,
            None => 0,
        };
        pixel.0 = [whole(red), whole(green), whole(blue), alpha];
    }
}

/// What has been multiplied by its alpha, in front of white paper.
fn on_white(pixels: &RgbaImage) -> RgbImage {
    RgbImage::from_fn(pixels.width(), pixels.height(), |x, y| {
        let [red, green, blue, alpha] = pixels.get_pixel(x, y).0;
        image::Rgb([red, green, blue].map(|colour| colour.saturating_add(255 - alpha)))
    })
}

fn jpeg(pixels: &RgbImage, profile: Option<Vec<u8>>) -> Result<Vec<u8>, Problem> {
    let mut written = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut written, JPEG_QUALITY);
    write(encoder, pixels, pixels.dimensions(), ExtendedColorType::Rgb8, profile)?;
    Ok(written)
}

fn png(
    pixels: &[u8],
    size: (u32, u32),
    colour: ExtendedColorType,
    profile: Option<Vec<u8>>,
) -> Result<Vec<u8>, Problem> {
    let mut written = Vec::new();
    write(PngEncoder::new(&mut written), pixels, size, colour, profile)?;
    Ok(written)
}

fn write(
    mut encoder: impl ImageEncoder,
    pixels: &[u8],
    (width, height): (u32, u32),
    colour: ExtendedColorType,
    profile: Option<Vec<u8>>,
) -> Result<(), Problem> {
    if let Some(profile) = profile {
        encoder
            .set_icc_profile(profile)
            .map_err(|error| unreadable(ImageError::Unsupported(error)))?;
    }
    encoder.write_image(pixels, width, height, colour).map_err(unreadable)
}
