/// An enum whose values have names.
macro_rules! named {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident ($all:vis ALL) {
            $($(#[$doc:meta])* $variant:ident = $text:literal,)*
        }
    ) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All of them.
            #[allow(dead_code, reason = "not all are listed")]
            $all const ALL: [Self; [$($text),*].len()] = [$(Self::$variant),*];

            /// The value's own name, in snake case.
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use named;
