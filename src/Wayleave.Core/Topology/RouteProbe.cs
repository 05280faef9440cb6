namespace Wayleave.Core.Topology;

// The rules guess what hardware does, and hardware may lose what they allow. So bytes are sent and looked at from the
// other side, by the processor at the physical address:
//
//   write   the processor fills the memory with one pattern, the client writes another; does the processor see it?
//   read    the processor fills it with a third; does the client see it?
//
// Every word of a pattern says where it belongs, so that a word that arrived elsewhere does not count as arrived.

/// <summary>
/// Tries a route with real bytes: a client's DMA engine against the processor, block by block. Destroys what is in the
/// memory, which must be nobody's. The caller holds no lock and is inside the gate of the client's translation for each
/// block; one thread at a time.
/// </summary>
/// <param name="client">An engine of the function whose route is tried.</param>
/// <param name="processor">An engine of <see cref="PciFabric.Processor"/>.</param>
/// <param name="seed">
/// Of the patterns; another for every probe, so that an old one's bytes do not pass for this one's.
/// </param>
public sealed class RouteProbe(DmaPort client, DmaPort processor, ulong seed)
{
    /// <summary>What fits into one stay inside a gate.</summary>
    public const int BlockBytesMax = 64 * 1024;

    private const int WordBytes = sizeof(ulong);

    private ulong _position;

    /// <summary>What became of the client's writes.</summary>
    public ProbeFinding Write { get; private set; }

    /// <summary>What became of the client's reads.</summary>
    public ProbeFinding Read { get; private set; }

    /// <summary>Tries one block, both ways.</summary>
    /// <param name="address">Where the client was told that the memory is.</param>
    /// <param name="physical">Where it is.</param>
    /// <param name="lengthBytes">A multiple of 8, at most <see cref="BlockBytesMax"/>.</param>
    /// <exception cref="ArgumentException">The processor does not reach the memory: it is no memory.</exception>
    public void TryBlock(DeviceAddress address, DeviceAddress physical, int lengthBytes)
    {
        if (lengthBytes <= 0 || lengthBytes > BlockBytesMax || lengthBytes % WordBytes != 0)
        {
            throw new ArgumentOutOfRangeException(nameof(lengthBytes));
        }

        Fill(physical, lengthBytes, Pattern.Before);
        Write = Write.Add(_position, lengthBytes, TryWrite(address, physical, lengthBytes));
        Fill(physical, lengthBytes, Pattern.Owner);
        Read = Read.Add(_position, lengthBytes, TryRead(address, lengthBytes));
        _position += (ulong)lengthBytes;
    }

    private BlockFinding TryWrite(DeviceAddress address, DeviceAddress physical, int lengthBytes)
    {
        for (int done = 0; done < lengthBytes;)
        {
            if (client.TryWrite(address + (ulong)done, lengthBytes - done, out Span<byte> bytes) != Errno.Success)
            {
                return BlockFinding.Aborted(done);
            }

            Fill(bytes, done, Pattern.Client);
            done += bytes.Length;
        }

        return Compare(processor, physical, lengthBytes, Pattern.Client);
    }

    private BlockFinding TryRead(DeviceAddress address, int lengthBytes) =>
        Compare(client, address, lengthBytes, Pattern.Owner);

    private BlockFinding Compare(DmaPort port, DeviceAddress address, int lengthBytes, Pattern pattern)
    {
        int firstBad = -1;
        int lastBad = -1;
        int badBytes = 0;
        for (int done = 0; done < lengthBytes;)
        {
            if (port.TryRead(address + (ulong)done, lengthBytes - done, out ReadOnlySpan<byte> bytes) != Errno.Success)
            {
                return BlockFinding.Aborted(done);
            }

            for (int i = 0; i < bytes.Length; i++)
            {
                int word = (done + i) / WordBytes;
                if (word != lastBad && bytes[i] != ByteAt(done + i, pattern))
                {
                    // By words: one byte in 256 is right by chance.
                    lastBad = word;
                    firstBad = firstBad < 0 ? word * WordBytes : firstBad;
                    badBytes += WordBytes;
                }
            }

            done += bytes.Length;
        }

        return new BlockFinding(IsAborted: false, firstBad, badBytes);
    }

    private void Fill(DeviceAddress physical, int lengthBytes, Pattern pattern)
    {
        for (int done = 0; done < lengthBytes;)
        {
            if (processor.TryWrite(physical + (ulong)done, lengthBytes - done, out Span<byte> bytes) != Errno.Success)
            {
                throw new ArgumentException($"nothing answers the processor at {physical + (ulong)done}");
            }

            Fill(bytes, done, pattern);
            done += bytes.Length;
        }
    }

    private void Fill(Span<byte> bytes, int offset, Pattern pattern)
    {
        for (int i = 0; i < bytes.Length; i++)
        {
            bytes[i] = ByteAt(offset + i, pattern);
        }
    }

    // SplitMix64 of the word's place: neighbouring words have nothing in common, so that a shift is seen as well.
    private byte ByteAt(int offset, Pattern pattern)
    {
        ulong place = _position + (ulong)offset;
        ulong z = seed + (((place / WordBytes * 3) + (ulong)pattern + 1) * 0x9E3779B97F4A7C15);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        z ^= z >> 31;
        return (byte)(z >> (int)(place % WordBytes * 8));
    }

    private enum Pattern
    {
        Before,
        Client,
        Owner,
    }
}

/// <summary>How one direction of a route did.</summary>
public enum ProbeOutcome
{
    /// <summary>Nothing was sent yet.</summary>
    Untried,

    /// <summary>Every byte arrived.</summary>
    Intact,

    /// <summary>Nothing answered: on real hardware a master abort or an unsupported request.</summary>
    Aborted,

    /// <summary>Requests were taken and bytes did not arrive, or others did.</summary>
    Corrupt,
}

/// <summary>What a probe saw in one direction.</summary>
/// <param name="Outcome">The worst of all blocks.</param>
/// <param name="TriedBytes">How much was sent.</param>
/// <param name="BadBytes">How much of it did not arrive, in whole words of 8 bytes.</param>
/// <param name="FirstBadOffset">Where the first of them belonged; 0 when there is none.</param>
public readonly record struct ProbeFinding(
    ProbeOutcome Outcome, ulong TriedBytes, ulong BadBytes, ulong FirstBadOffset)
{
    internal ProbeFinding Add(ulong position, int lengthBytes, BlockFinding block)
    {
        ulong first = BadBytes == 0 && block.BadOffset >= 0 ? position + (ulong)block.BadOffset : FirstBadOffset;
        ulong bad = block.IsAborted ? (ulong)(lengthBytes - block.BadOffset) : (ulong)block.BadBytes;
        ProbeOutcome outcome = block.IsAborted ? ProbeOutcome.Aborted
            : bad != 0 ? ProbeOutcome.Corrupt
            : ProbeOutcome.Intact;
        return new ProbeFinding(
            outcome > Outcome ? outcome : Outcome, TriedBytes + (ulong)lengthBytes, BadBytes + bad, first);
    }
}

/// <summary>What a probe saw of one block in one direction.</summary>
internal readonly record struct BlockFinding(bool IsAborted, int BadOffset, int BadBytes)
{
    public static BlockFinding Aborted(int offset) => new(IsAborted: true, offset, 0);
}
