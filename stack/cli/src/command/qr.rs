//! Invitations as QR codes (ISO/IEC 18004): drawn in the terminal, read from a picture.

use std::path::Path;

use peerloom::{Error, ErrorKind, Result};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use terminal_size::Width;

use crate::output::{colours, note, say};

/// Pictures of more pixels than this are refused before they are decoded.
const MAX_PIXELS: u32 = 10_000;

/// Shows a text as a QR code; a terminal that is too narrow for it is told so.
pub(super) fn show(text: &str) -> Result<()> {
    let drawn = draw(text, colours())?;
    let needed = draw(text, false)?.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    match terminal_size::terminal_size_of(std::io::stdout()) {
        Some((Width(columns), _)) if usize::from(columns) < needed => note(&format!(
            "note: the QR code is {needed} columns wide, and this terminal {columns}; make it wider, or use the text"
        )),
        _ => say(&drawn),
    }
    Ok(())
}

/// A link as lines of half blocks, blocks being light. With `coloured`, whatever the terminal's colours
/// are; without, right on a dark background.
fn draw(link: &str, coloured: bool) -> Result<String> {
    let failed = |e| Error::new(ErrorKind::TooLarge, "qr", "draw", "the link is too long for a QR code").source(e);
    let code = QrCode::with_error_correction_level(link, EcLevel::L).map_err(failed)?;
    // The library means ink by dark, and in a terminal ink is light.
    let drawn = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    let colour = |line: &str| if coloured { format!("\x1b[97;40m{line}\x1b[0m") } else { line.to_owned() };
    Ok(drawn.lines().map(colour).collect::<Vec<_>>().join("\n"))
}

/// The text of the one QR code in a picture.
pub(super) fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let unusable = |kind, why: &str| Error::new(kind, "qr", "read", format!("{shown}: {why}"));
    let reader = image::ImageReader::open(path).and_then(image::ImageReader::with_guessed_format);
    let mut reader = reader.map_err(|e| unusable(ErrorKind::NotFound, "the picture can't be opened").source(e))?;
    let mut limits = image::Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_PIXELS), Some(MAX_PIXELS));
    reader.limits(limits);
    let picture = reader.decode();
    let picture = picture.map_err(|e| unusable(ErrorKind::Malformed, "this is not a PNG or JPEG picture").source(e))?;
    let mut prepared = rqrr::PreparedImage::prepare(picture.to_luma8());
    let grids = prepared.detect_grids();
    let codes: Vec<String> = grids.iter().filter_map(|grid| grid.decode().ok()).map(|(_, text)| text).collect();
    match (codes.as_slice(), grids.len()) {
        ([one], _) => Ok(one.clone()),
        ([], 0) => {
            Err(unusable(ErrorKind::NotFound, "no QR code is in the picture; take it again, straight and sharp"))
        }
        ([], _) => Err(unusable(ErrorKind::Malformed, "the QR code can't be read; take the picture again, larger")),
        _ => Err(unusable(ErrorKind::Invalid, "there are several QR codes in the picture; cut out the right one")),
    }
}
