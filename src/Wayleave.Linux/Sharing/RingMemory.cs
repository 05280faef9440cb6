using System.Runtime.InteropServices;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Sharing;

//    offset         what                                          who writes it
//         0         magic, version, slots, sizes, offsets          the maker, before the other has it
//       128   256   submitted, asleep: of the commands             producer; consumer (the producer takes it back)
//       384         taken: of the commands                         consumer
//       512   640   submitted, asleep: of the completions          likewise
//       768         taken: of the completions
//      4096         commands, 64 bytes each; then, at a page, completions, 32 bytes each
//
// Little-endian. Indexes count on and on, modulo 2^32; the entry of an index is at the index modulo the slots. Words
// that different sides write are in different pairs of cache lines. docs/internals/rings.md says which order each
// access has.

/// <summary>
/// Memory of two rings, one of commands to who made it and one of completions back, that two processes map. What the
/// other side writes there may be anything at any time: it is read once, and checked by the one who reads it.
/// </summary>
public sealed unsafe class RingMemory : IDisposable
{
    /// <summary>The layout's.</summary>
    public const uint Version = 1;

    /// <summary>Of a command.</summary>
    public const int CommandBytes = 64;

    /// <summary>Of a completion.</summary>
    public const int CompletionBytes = 32;

    /// <summary>Of either ring; a power of two.</summary>
    public const int SlotsMax = 4096;

    private const uint Magic = 0x31524C57; // "WLR1"
    private const int PageBytes = 4096;
    private const int FirstIndex = 128;
    private const int IndexStride = 128;

    private readonly MappedMemory _memory;
    private readonly System.Buffers.MemoryHandle _pin;

    private RingMemory(FileDescriptor descriptor, MappedMemory memory, int slots)
    {
        (Descriptor, _memory, Slots) = (descriptor, memory, slots);
        _pin = memory.Pin();
        byte* start = (byte*)_pin.Pointer;
        Commands = new RingSide(start, FirstIndex, PageBytes, CommandBytes, slots);
        Completions = new RingSide(
            start, FirstIndex + (3 * IndexStride), CompletionsOffset(slots), CompletionBytes, slots);
    }

    /// <summary>To be sent; owned by this object.</summary>
    public FileDescriptor Descriptor { get; }

    /// <summary>Of each ring.</summary>
    public int Slots { get; }

    /// <summary>All of the memory, as whoever is at the other side could write it: for tests.</summary>
    internal Span<byte> Bytes => _memory.GetSpan();

    internal RingSide Commands { get; }

    internal RingSide Completions { get; }

    /// <summary>Makes empty rings, in memory that can neither shrink nor grow.</summary>
    /// <param name="slots">A power of two, from 2 to <see cref="SlotsMax"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">It is none.</exception>
    /// <exception cref="LinuxException">ENOMEM or EMFILE.</exception>
    public static RingMemory Create(int slots)
    {
        if (!AreSlots((uint)slots))
        {
            throw new ArgumentOutOfRangeException(nameof(slots), slots, $"a power of two from 2 to {SlotsMax}");
        }

        FileDescriptor file = MemFd.Create("wayleave-ring", LengthBytes(slots));
        MappedMemory? memory = null;
        try
        {
            if (Libc.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL) < 0)
            {
                LinuxException.Throw("fcntl(F_ADD_SEALS)", "a ring");
            }

            memory = MappedMemory.MapShared(file, 0, LengthBytes(slots), "a ring");
            Span<uint> head = MemoryMarshal.Cast<byte, uint>(memory.GetSpan());
            (head[0], head[1], head[2], head[3]) = (Magic, Version, (uint)slots, CommandBytes);
            (head[4], head[5], head[6]) = (CompletionBytes, PageBytes, (uint)CompletionsOffset(slots));
            return new RingMemory(file, memory, slots);
        }
        catch
        {
            ((IDisposable?)memory)?.Dispose();
            file.Dispose();
            throw;
        }
    }

    /// <summary>Maps rings that another process made.</summary>
    /// <param name="descriptor">Owned by the rings from now on, or closed.</param>
    /// <param name="slots">As that process says; nothing is taken from the memory itself.</param>
    /// <returns>Null when the memory could shrink or is of another size, or the head is of another layout.</returns>
    /// <exception cref="LinuxException">ENOMEM.</exception>
    public static RingMemory? Open(FileDescriptor descriptor, int slots)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        try
        {
            if (!AreSlots((uint)slots) || !MemFd.IsSealedAgainstShrinking(descriptor)
                || Libc.lseek(descriptor, 0, whence: 2) < LengthBytes(slots))
            {
                descriptor.Dispose();
                return null;
            }

            MappedMemory memory = MappedMemory.MapShared(descriptor, 0, LengthBytes(slots), "a ring");
            ReadOnlySpan<uint> head = MemoryMarshal.Cast<byte, uint>(memory.GetSpan());
            if (head[0] == Magic && head[1] == Version && head[2] == (uint)slots)
            {
                return new RingMemory(descriptor, memory, slots);
            }

            ((IDisposable)memory).Dispose();
            descriptor.Dispose();
            return null;
        }
        catch
        {
            descriptor.Dispose();
            throw;
        }
    }

    /// <summary>Unmaps. Nobody of this process uses a ring any more.</summary>
    public void Dispose()
    {
        Descriptor.Dispose();
        _pin.Dispose();
        ((IDisposable)_memory).Dispose();
    }

    private static bool AreSlots(uint slots) => slots is >= 2 and <= SlotsMax && (slots & (slots - 1)) == 0;

    private static int CompletionsOffset(int slots) =>
        PageBytes + (((slots * CommandBytes) + PageBytes - 1) & ~(PageBytes - 1));

    private static int LengthBytes(int slots) =>
        CompletionsOffset(slots) + (((slots * CompletionBytes) + PageBytes - 1) & ~(PageBytes - 1));

    /// <summary>Where one of the two rings is.</summary>
    internal readonly struct RingSide(byte* start, int index, int entries, int entryBytes, int slots)
    {
        public int Slots => slots;

        public int EntryBytes => entryBytes;

        public ref uint Submitted => ref *(uint*)(start + index);

        public ref uint Asleep => ref *(uint*)(start + index + IndexStride);

        public ref uint Taken => ref *(uint*)(start + index + (2 * IndexStride));

        public Span<byte> Entry(uint number) =>
            new(start + entries + ((nint)(number & (uint)(slots - 1)) * entryBytes), entryBytes);
    }
}
