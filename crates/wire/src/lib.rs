//! Shapes, identifiers, constraints, errors and paging of the AWS API: no I/O, no clock.
