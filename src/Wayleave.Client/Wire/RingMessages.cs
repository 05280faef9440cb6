using System.Buffers.Binary;
using Wayleave.Core;

namespace Wayleave.Client.Wire;

/// <summary>What a command in a ring asks for.</summary>
public enum RingOperation : uint
{
    /// <summary>Nothing: it is answered.</summary>
    Nothing = 1,

    /// <summary>The ring's GPU copies from one attached buffer to another.</summary>
    Copy = 2,

    /// <summary>
    /// The entries behind it are commands for an attached queue of a compute engine. All of them are there when it is.
    /// </summary>
    Compute = 3,
}

//   0           4       8       16       20       24              32              40       48            64
//   | operation | flags | tag   | source | target | source offset | target offset | length | zeros       |

/// <summary>A command in a ring, 64 bytes.</summary>
/// <param name="Operation">What is to be done.</param>
/// <param name="IsBarrier">Not before all earlier commands of the ring have ended.</param>
/// <param name="Tag">The program's own; comes back with the completion.</param>
/// <param name="Source">Of a copy: a buffer, by its slot in the ring's table. Of work: the queue, likewise.</param>
/// <param name="Target">Of a copy: as the source.</param>
/// <param name="SourceOffset">In bytes.</param>
/// <param name="TargetOffset">In bytes.</param>
/// <param name="Length">Of a copy: bytes, at least one. Of work: how many entries behind it are commands.</param>
public readonly record struct RingCommand(
    RingOperation Operation,
    bool IsBarrier,
    ulong Tag,
    uint Source = 0,
    uint Target = 0,
    ulong SourceOffset = 0,
    ulong TargetOffset = 0,
    ulong Length = 0)
{
    private const uint Barrier = 1;
    private const int End = 48;
    private const uint CommandsMax = 4096; // as many as the longest ring has slots, with the one before them

    /// <summary>Reads a copy of an entry.</summary>
    /// <returns>
    /// False for what is no command: unknown operations or flags, work of no or too many commands, or bytes that are
    /// not zero where nothing stands.
    /// </returns>
    public static bool TryRead(ReadOnlySpan<byte> entry, out RingCommand command)
    {
        uint operation = BinaryPrimitives.ReadUInt32LittleEndian(entry);
        uint flags = BinaryPrimitives.ReadUInt32LittleEndian(entry[4..]);
        command = new RingCommand(
            (RingOperation)operation,
            flags == Barrier,
            BinaryPrimitives.ReadUInt64LittleEndian(entry[8..]),
            BinaryPrimitives.ReadUInt32LittleEndian(entry[16..]),
            BinaryPrimitives.ReadUInt32LittleEndian(entry[20..]),
            BinaryPrimitives.ReadUInt64LittleEndian(entry[24..]),
            BinaryPrimitives.ReadUInt64LittleEndian(entry[32..]),
            BinaryPrimitives.ReadUInt64LittleEndian(entry[40..]));
        bool isKnown = (RingOperation)operation switch
        {
            RingOperation.Nothing or RingOperation.Copy => true,
            RingOperation.Compute => command.Length is > 0 and < CommandsMax
                && command is { Target: 0, SourceOffset: 0, TargetOffset: 0 },
            _ => false,
        };
        return isKnown && flags <= Barrier && !entry[End..].ContainsAnyExcept((byte)0);
    }

    public void Write(Span<byte> entry)
    {
        entry[End..].Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(entry, (uint)Operation);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[4..], IsBarrier ? Barrier : 0);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], Tag);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], Source);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[20..], Target);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[24..], SourceOffset);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[32..], TargetOffset);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[40..], Length);
    }
}

//   0      8       12      32
//   | tag  | errno | zeros |

/// <summary>The answer to a command, 32 bytes. They come as the work ends, which need not be in order.</summary>
/// <param name="Tag">Of the command.</param>
/// <param name="Errno">What the work ended with.</param>
public readonly record struct RingCompletion(ulong Tag, Errno Errno)
{
    /// <summary>Reads a copy of an entry.</summary>
    /// <returns>False for an errno that there is none of.</returns>
    public static bool TryRead(ReadOnlySpan<byte> entry, out RingCompletion completion)
    {
        int errno = BinaryPrimitives.ReadInt32LittleEndian(entry[8..]);
        completion = new RingCompletion(BinaryPrimitives.ReadUInt64LittleEndian(entry), (Errno)errno);
        return errno is >= 0 and <= 4095;
    }

    public void Write(Span<byte> entry)
    {
        entry.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(entry, Tag);
        BinaryPrimitives.WriteInt32LittleEndian(entry[8..], (int)Errno);
    }
}
