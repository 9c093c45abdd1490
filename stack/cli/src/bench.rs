pub(crate) use self::stub::*;
mod stub {
use std::process::ExitCode; use peerloom::{Override,Result}; use crate::args::Bench;
#[derive(Debug,Clone,Copy,PartialEq,Eq,clap::ValueEnum)] pub(crate) enum Figure { Messages }
#[derive(Debug,Clone,clap::Subcommand)] pub(crate) enum Role { RawQuic }
pub(crate) async fn run(_:&[Override],_:bool,_:Bench)->Result<ExitCode>{Ok(ExitCode::SUCCESS)}
pub(crate) async fn peer(_:&std::path::Path,_:Role)->Result<()>{Ok(())}
}
