//! What FROM, COPY and ADD name.
