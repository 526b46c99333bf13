//! The methods IAPO is compared with, one file each.
