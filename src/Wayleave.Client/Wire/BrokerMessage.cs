using System.Buffers.Binary;
using System.Text;
using Wayleave.Core;

namespace Wayleave.Client.Wire;

//   0        4        8            10      12      16       24
//   | magic  | length | operation  | flags | errno | tag    | body ...
//
// Little-endian. A message is one datagram, and says its own length; a body has exactly the fields of its operation.

/// <summary>The head of a message.</summary>
/// <param name="Operation">As the request says, also in its answer.</param>
/// <param name="IsAnswer">Whether it goes from the broker to the program.</param>
/// <param name="Errno">Of an answer: why it was refused; a refusal has no body but a text.</param>
/// <param name="Tag">The program's own, for it to find the request of an answer.</param>
public readonly record struct BrokerHeader(BrokerOperation Operation, bool IsAnswer, Errno Errno, ulong Tag);

/// <summary>Bytes to values and back, for messages of a broker. No state.</summary>
public static class BrokerMessage
{
    /// <summary>The newest version of the protocol that this is: the one with an engine for each queue.</summary>
    public const uint Version = 2;

    /// <summary>The oldest that is spoken as well.</summary>
    public const uint VersionOldest = 1;

    public const int HeaderBytes = 24;

    /// <summary>Of a whole message; a longer one ends the connection.</summary>
    public const int BytesMax = 64 * 1024;

    /// <summary>Of a name: UTF-8, filled up with zeros.</summary>
    public const int NameBytes = 32;

    private const uint Magic = 0x31424C57; // "WLB1"
    private const ushort Answer = 1;

    /// <summary>Reads the head of a datagram.</summary>
    /// <returns>
    /// False for what is no message: too short, of another length than it says, or with unknown flags.
    /// </returns>
    public static bool TryRead(ReadOnlySpan<byte> message, out BrokerHeader header, out BrokerReader body)
    {
        header = default;
        body = default;
        if (message.Length is < HeaderBytes or > BytesMax
            || BinaryPrimitives.ReadUInt32LittleEndian(message) != Magic
            || BinaryPrimitives.ReadUInt32LittleEndian(message[4..]) != (uint)message.Length)
        {
            return false;
        }

        ushort flags = BinaryPrimitives.ReadUInt16LittleEndian(message[10..]);
        int errno = BinaryPrimitives.ReadInt32LittleEndian(message[12..]);
        bool isAnswer = flags == Answer;
        if (flags > Answer || errno is < 0 or > 4095 || (!isAnswer && errno != 0))
        {
            return false;
        }

        header = new BrokerHeader(
            (BrokerOperation)BinaryPrimitives.ReadUInt16LittleEndian(message[8..]),
            isAnswer,
            (Errno)errno,
            BinaryPrimitives.ReadUInt64LittleEndian(message[16..]));
        body = new BrokerReader(message[HeaderBytes..]);
        return true;
    }

    /// <summary>Begins a message; <see cref="BrokerWriter.Finish"/> ends it.</summary>
    /// <param name="buffer">At least <see cref="HeaderBytes"/> and the body.</param>
    /// <param name="header">Its head.</param>
    public static BrokerWriter Begin(Span<byte> buffer, BrokerHeader header)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(buffer, Magic);
        BinaryPrimitives.WriteUInt16LittleEndian(buffer[8..], (ushort)header.Operation);
        BinaryPrimitives.WriteUInt16LittleEndian(buffer[10..], header.IsAnswer ? Answer : (ushort)0);
        BinaryPrimitives.WriteInt32LittleEndian(buffer[12..], (int)header.Errno);
        BinaryPrimitives.WriteUInt64LittleEndian(buffer[16..], header.Tag);
        return new BrokerWriter(buffer);
    }
}

/// <summary>Reads the fields of a body in their order.</summary>
/// <param name="bytes">All of it.</param>
public ref struct BrokerReader(ReadOnlySpan<byte> bytes)
{
    private ReadOnlySpan<byte> _left = bytes;

    public bool TryReadUInt32(out uint value)
    {
        bool is4 = BinaryPrimitives.TryReadUInt32LittleEndian(_left, out value);
        _left = is4 ? _left[4..] : _left;
        return is4;
    }

    public bool TryReadUInt64(out ulong value)
    {
        bool is8 = BinaryPrimitives.TryReadUInt64LittleEndian(_left, out value);
        _left = is8 ? _left[8..] : _left;
        return is8;
    }

    /// <summary>False also for bytes that are no UTF-8, have a zero in their middle, or do not end in one.</summary>
    public bool TryReadName(out string name)
    {
        name = "";
        if (_left.Length < BrokerMessage.NameBytes)
        {
            return false;
        }

        ReadOnlySpan<byte> field = _left[..BrokerMessage.NameBytes];
        _left = _left[BrokerMessage.NameBytes..];
        int length = field.IndexOf((byte)0);
        if (length < 0 || field[length..].ContainsAnyExcept((byte)0)
            || !System.Text.Unicode.Utf8.IsValid(field[..length]))
        {
            return false;
        }

        name = Encoding.UTF8.GetString(field[..length]);
        return true;
    }

    /// <summary>A field of that many bytes.</summary>
    public bool TryReadBytes(int count, out ReadOnlySpan<byte> bytes)
    {
        bool isThere = _left.Length >= count;
        bytes = isThere ? _left[..count] : default;
        _left = isThere ? _left[count..] : _left;
        return isThere;
    }

    /// <summary>All that is left.</summary>
    public ReadOnlySpan<byte> ReadRest()
    {
        ReadOnlySpan<byte> rest = _left;
        _left = default;
        return rest;
    }

    /// <summary>The rest, as text; what is no UTF-8 in it is replaced.</summary>
    public string ReadText()
    {
        string text = Encoding.UTF8.GetString(_left);
        _left = default;
        return text;
    }

    /// <summary>Whether all was read: a body has nothing behind its last field.</summary>
    public readonly bool IsEnd => _left.IsEmpty;
}

/// <summary>Writes the fields of a body in their order.</summary>
/// <param name="buffer">Of the whole message, whose head is there.</param>
public ref struct BrokerWriter(Span<byte> buffer)
{
    private readonly Span<byte> _buffer = buffer;
    private int _length = BrokerMessage.HeaderBytes;

    public void WriteUInt32(uint value)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(_buffer[_length..], value);
        _length += sizeof(uint);
    }

    public void WriteUInt64(ulong value)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(_buffer[_length..], value);
        _length += sizeof(ulong);
    }

    /// <exception cref="ArgumentException">It is longer than 31 bytes.</exception>
    public void WriteName(string name)
    {
        Span<byte> field = _buffer.Slice(_length, BrokerMessage.NameBytes);
        field.Clear();
        Encoding.UTF8.GetBytes(name, field[..^1]);
        _length += BrokerMessage.NameBytes;
    }

    /// <summary>As <see cref="WriteName"/>, with as much of it as there is room for.</summary>
    public void WriteNameCut(string name)
    {
        Span<byte> field = _buffer.Slice(_length, BrokerMessage.NameBytes);
        field.Clear();
        Utf8TranscodeTruncated(name, field[..^1], out _);
        _length += BrokerMessage.NameBytes;
    }

    /// <summary>Bytes of a fixed count, which is the field's.</summary>
    public void WriteBytes(scoped ReadOnlySpan<byte> bytes)
    {
        bytes.CopyTo(_buffer[_length..]);
        _length += bytes.Length;
    }

    /// <summary>As much of it as there is room for.</summary>
    public void WriteText(string text)
    {
        Utf8TranscodeTruncated(text, _buffer[_length..], out int written);
        _length += written;
    }

    /// <summary>The whole message.</summary>
    public readonly ReadOnlySpan<byte> Finish()
    {
        BinaryPrimitives.WriteUInt32LittleEndian(_buffer[4..], (uint)_length);
        return _buffer[.._length];
    }

    private static void Utf8TranscodeTruncated(string text, Span<byte> target, out int written) =>
        System.Text.Unicode.Utf8.FromUtf16(text, target, out _, out written);
}
