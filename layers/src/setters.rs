/// Setters that take the builder by value and set one field.
macro_rules! setters {
    ($($(#[$meta:meta])* pub fn $name:ident($value:ident: $type:ty) => $($field:tt).+ = $new:expr;)*) => {
        $(
            $(#[$meta])*
            pub fn $name(mut self, $value: $type) -> Self {
                self.$($field).+ = $new;
                self
            }
        )*
    };
}
pub(crate) use setters;
