//! One HTTP front for every AWS service that Colibri speaks.
