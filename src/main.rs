//! The `selvedge` program: everything is in the library.

fn main() -> std::process::ExitCode {
    selvedge::cli::main()
}
