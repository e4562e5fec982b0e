cdef int LONGEST_LOOK = 64  # a longer match is not likelier to go on
cdef int MOST_PLACES = 256  # half a microsecond

cdef class Lookup:
    """Where the last tokens of a growing array of ids stood before.

    Places are chained by the two ids in front of them, as in LZ77 compressors: what an id costs does not
    depend on how many there are. MOST_PLACES of a chain are looked at, so a look-up has a bound too.
    """

    cdef array.array ids
    cdef array.array earlier  # by place: the last one before it with the same two ids in front, else 0
    cdef dict last  # by these: the last place

    def __init__(self, array.array ids not None):
        self.ids, self.earlier, self.last = ids, array.array("i"), {}

    def find(self, int n):
        """The place before n with the longest text in front that ends the first n ids too, the last of such.

        Returns (place, length): ids[place - length : place] == ids[n - length : n]. A length counts at most
        as LONGEST_LOOK, of MOST_PLACES places; (0, 0) where not even the last two ids came before.
        n does not fall from call to call.
        """
        cdef int* ids = self.ids.data.as_ints
        cdef int place, length, most, best = 0, longest = 1, n_looks = 0
        if n > len(self.ids):
            raise ValueError(f"find: {n} ids, there are {len(self.ids)}")
        self._chain(n)
        if n < 3:
            return 0, 0
        place = self.last.get(key_of_pair(ids + n - 2), 0)
        while place > 0 and n_looks < MOST_PLACES:
            n_looks += 1
            # Where it does not agree at the length to be beaten, it cannot be longer.
            if place > longest and ids[place - 1 - longest] == ids[n - 1 - longest]:
                length, most = 2, min(LONGEST_LOOK, place)
                while length < most and ids[place - 1 - length] == ids[n - 1 - length]:
                    length += 1
                if length > longest:
                    best, longest = place, length
                    if length == LONGEST_LOOK:
                        break
            place = self.earlier.data.as_ints[place]
        if not best:
            return 0, 0
        return best, longest

    def continuation(self, int at, int n):
        """n ids from place `at` on; past the end of the ids those that were copied, again and again."""
        cdef array.array made = array.array("i", bytes(n * sizeof(int)))
        cdef Py_ssize_t i, end = len(self.ids)
        if not 0 <= at < end:
            raise ValueError(f"continuation: place {at} of {end} ids")
        for i in range(n):
            made.data.as_ints[i] = (
                self.ids.data.as_ints[at + i] if at + i < end else made.data.as_ints[at + i - end]
            )
        return made

    cdef _chain(self, int n):
        """Enters the places before n."""
        cdef int place
        for place in range(len(self.earlier), n):
            if place < 2:
                self.earlier.append(0)
                continue
            key = key_of_pair(self.ids.data.as_ints + place - 2)
            self.earlier.append(self.last.get(key, 0))
            self.last[key] = place


cdef key_of_pair(const int* ids):
    return (<uint64_t><unsigned int>ids[0] << 32) | <unsigned int>ids[1]


def n_alike(array.array a not None, array.array b not None):
    """Leading ids that are the same in two arrays of int32."""
    cdef Py_ssize_t i = 0, n = min(len(a), len(b))
    cdef int* mine = a.data.as_ints
    cdef int* theirs = b.data.as_ints
    while i < n and mine[i] == theirs[i]:
        i += 1
    return i
