//! Invitations as QR codes (ISO/IEC 18004): drawn in the terminal, written to a picture, read from one.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, GrayImage, ImageError, ImageFormat, Luma};
use peerloom::core::private;
use peerloom::{Error, ErrorKind, Result};
use qrcode::types::Color;
use qrcode::{EcLevel, QrCode};
use terminal_size::{Height, Width};

use crate::output::{colours, note, say};

/// Pictures of more pixels than this in a row or column are refused before they are decoded.
const MAX_PIXELS: u32 = 10_000;
/// Pictures smaller than this are enlarged: a code whose modules are single pixels isn't found otherwise.
const SMALL: u32 = 400;
/// Light modules around a drawn code. The standard wants 4; readers need 2, and terminals are small.
const MARGIN: i32 = 2;
/// Pixels of a module in a written picture.
const SCALE: u32 = 8;

/// Shows a text as a QR code; in a terminal that is too narrow a note stands for it.
pub(super) fn show(text: &str) -> Result<()> {
    let code = code(text, EcLevel::L)?;
    let lines = draw(&code);
    let columns = code.width() + 2 * MARGIN as usize;
    match terminal_size::terminal_size_of(std::io::stdout()) {
        Some((Width(width), _)) if usize::from(width) < columns => note(&format!(
            "note: the QR code is {columns} columns wide, and this terminal {width}; make the terminal wider or its font \
             smaller, or write the code to a picture with `invite --png FILE`"
        )),
        size => {
            let colour = |line: &String| if colours() { format!("\x1b[97;40m{line}\x1b[0m") } else { line.clone() };
            say(&lines.iter().map(colour).collect::<Vec<_>>().join("\n"));
            if size.is_some_and(|(_, Height(height))| usize::from(height) <= lines.len()) {
                note("note: the QR code is higher than this terminal; `invite --png FILE` writes it to a picture");
            }
        }
    }
    Ok(())
}

/// Writes a text as a QR code to a new PNG picture that is for its user alone, since it lets its reader in.
pub(super) fn write(text: &str, path: &Path) -> Result<()> {
    let code = code(text, EcLevel::M)?;
    let modules = code.width() as u32 + 8;
    let picture = GrayImage::from_fn(modules * SCALE, modules * SCALE, |x, y| {
        let at = |pixel: u32| (pixel / SCALE) as i32 - 4;
        Luma([if is_dark(&code, at(x), at(y)) { 0 } else { 255 }])
    });
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|e| Error::new(ErrorKind::Internal, "qr", "write", "the picture can't be encoded").with_source(e))?;
    private::create(path, bytes.get_ref())
        .map_err(|e| if e.kind() == ErrorKind::AlreadyExists { taken(path) } else { e })
}

/// Whether a new picture can have this name, before anything is made that would stand in it.
pub(super) fn check_free(path: &Path) -> Result<()> {
    if let Ok(format) = ImageFormat::from_path(path)
        && format != ImageFormat::Png
    {
        let message = format!("{}: the picture is written as PNG; take a name that ends with .png", path.display());
        return Err(Error::new(ErrorKind::Invalid, "qr", "write", message));
    }
    if path.symlink_metadata().is_ok() {
        return Err(taken(path));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match folder.is_dir() {
        true => Ok(()),
        false => {
            let message = format!("{}: there is no folder {}; make it first", path.display(), folder.display());
            Err(Error::new(ErrorKind::NotFound, "qr", "write", message))
        }
    }
}

fn taken(path: &Path) -> Error {
    let message = format!("{}: it is there already; take another name", path.display());
    Error::new(ErrorKind::AlreadyExists, "qr", "write", message)
}

fn code(text: &str, correction: EcLevel) -> Result<QrCode> {
    let failed = |e| Error::new(ErrorKind::TooLarge, "qr", "draw", "the link is too long for a QR code").with_source(e);
    QrCode::with_error_correction_level(text, correction).map_err(failed)
}

fn is_dark(code: &QrCode, x: i32, y: i32) -> bool {
    let inside = 0..code.width() as i32;
    inside.contains(&x) && inside.contains(&y) && code[(x as usize, y as usize)] == Color::Dark
}

/// Lines of half blocks, blocks being light: right on a dark background.
fn draw(code: &QrCode) -> Vec<String> {
    let modules = || -MARGIN..code.width() as i32 + MARGIN;
    let block = |x: i32, y: i32| match (is_dark(code, x, y), is_dark(code, x, y + 1)) {
        (false, false) => '█',
        (false, true) => '▀',
        (true, false) => '▄',
        (true, true) => ' ',
    };
    modules().step_by(2).map(|y| modules().map(|x| block(x, y)).collect()).collect()
}

/// The text of the one QR code in a picture.
pub(super) fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let unusable = |kind, why: &str| Error::new(kind, "qr", "read", format!("{shown}: {why}"));
    let reader = image::ImageReader::open(path).and_then(image::ImageReader::with_guessed_format);
    let mut reader = reader.map_err(|e| unusable(ErrorKind::NotFound, "the picture can't be opened").with_source(e))?;
    let mut limits = image::Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_PIXELS), Some(MAX_PIXELS));
    reader.limits(limits);
    let picture = reader.decode();
    let picture = picture.map_err(|e| match e {
        ImageError::Limits(_) => unusable(ErrorKind::TooLarge, "the picture is too large; cut out the code"),
        _ => unusable(ErrorKind::Malformed, "this is not a PNG or JPEG picture").with_source(e),
    })?;
    // Dark on light or light on dark; what is transparent may be either.
    let grounds: &[u8] = if picture.color().has_alpha() { &[255, 0] } else { &[255] };
    let mut found = false;
    for (ground, inverted) in grounds.iter().flat_map(|ground| [(*ground, false), (*ground, true)]) {
        let mut prepared = rqrr::PreparedImage::prepare(flat(&picture, ground, inverted));
        let grids = prepared.detect_grids();
        found |= !grids.is_empty();
        let codes: Vec<String> = grids.iter().filter_map(|grid| grid.decode().ok()).map(|(_, text)| text).collect();
        match codes.as_slice() {
            [] => {}
            [one] => return Ok(one.clone()),
            _ => {
                let message = "there are several QR codes in the picture; cut out the right one";
                return Err(unusable(ErrorKind::Invalid, message));
            }
        }
    }
    Err(match found {
        false => unusable(ErrorKind::NotFound, "no QR code is in the picture; take it again, straight and sharp"),
        true => unusable(ErrorKind::Malformed, "the QR code can't be read; take the picture again, larger"),
    })
}

/// A picture in shades of grey on a ground, with a light margin: the code may reach to the picture's edge.
fn flat(picture: &DynamicImage, ground: u8, inverted: bool) -> GrayImage {
    let grey = picture.to_luma_alpha8();
    let (width, height) = grey.dimensions();
    let scale = if width.max(height) < SMALL { 4 } else { 1 };
    let margin = width.max(height) * scale / 16;
    GrayImage::from_fn(width * scale + 2 * margin, height * scale + 2 * margin, |x, y| {
        let at = |pixel: u32| pixel.checked_sub(margin).map(|pixel| pixel / scale);
        let pixel = at(x).zip(at(y)).and_then(|(x, y)| grey.get_pixel_checked(x, y));
        Luma([pixel.map_or(255, |pixel| {
            let [light, alpha] = pixel.0.map(u16::from);
            // A weighted mean of two bytes is one.
            let seen = ((light * alpha + u16::from(ground) * (255 - alpha)) / 255) as u8;
            if inverted { 255 - seen } else { seen }
        })])
    })
}
