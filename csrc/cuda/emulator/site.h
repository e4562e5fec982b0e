#pragma once

// Where the function that uses it was called: in a kernel.
#define LANNER_SITE __builtin_extract_return_addr(__builtin_return_address(0))
