//! Build events and what people see of them.
