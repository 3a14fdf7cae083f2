//! OpenFlow 1.5 with Nicira extensions: codec and text form.
