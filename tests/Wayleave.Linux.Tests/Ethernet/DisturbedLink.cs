using Wayleave.Core;
using Wayleave.Host.Runners;
using Wayleave.Simulation;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>
/// A link that loses, duplicates and holds back frames of both directions by a seed: what netem does, where the kernel
/// has no netem. Called by whoever holds the port token, but for the waits.
/// </summary>
internal sealed class DisturbedLink(IFrameLink link, int lossPerMille, int duplicatePerMille, int holdPerMille)
    : IFrameLink
{
    private readonly Choices _choices = Choices.Seeded(42);
    private readonly Queue<byte[]> _again = new();
    private byte[]? _heldIn;
    private byte[]? _heldOut;

    public long Disturbed { get; private set; }

    public string Name => link.Name;

    public Errno TryRead(Span<byte> buffer, out int lengthBytes)
    {
        while (true)
        {
            if (_again.TryDequeue(out byte[]? again))
            {
                again.CopyTo(buffer);
                lengthBytes = again.Length;
                return Errno.Success;
            }

            Errno errno = link.TryRead(buffer, out lengthBytes);
            if (errno != Errno.Success)
            {
                return TryReadHeld(errno, buffer, out lengthBytes);
            }

            byte[] frame = buffer[..lengthBytes].ToArray();
            if (Happens(lossPerMille))
            {
                continue;
            }

            if (Happens(duplicatePerMille))
            {
                _again.Enqueue(frame);
            }

            if (_heldIn is null && Happens(holdPerMille))
            {
                _heldIn = frame;
                continue;
            }

            if (_heldIn is { } held)
            {
                _again.Enqueue(held);
                _heldIn = null;
            }

            return Errno.Success;
        }
    }

    public Errno TryWrite(ReadOnlySpan<byte> frame)
    {
        if (Happens(lossPerMille))
        {
            return Errno.Success;
        }

        if (_heldOut is null && Happens(holdPerMille))
        {
            _heldOut = frame.ToArray();
            return Errno.Success;
        }

        Errno errno = link.TryWrite(frame);
        if (errno == Errno.Success && Happens(duplicatePerMille))
        {
            link.TryWrite(frame);
        }

        if (errno == Errno.Success && _heldOut is { } held)
        {
            _heldOut = null;
            link.TryWrite(held);
        }

        return errno;
    }

    public bool Wait(TimeSpan timeout) => link.Wait(timeout);

    public bool WaitForSendRoom(TimeSpan timeout) => link.WaitForSendRoom(timeout);

    public bool WaitForWake(TimeSpan timeout) => link.WaitForWake(timeout);

    public void Wake() => link.Wake();

    public void Dispose() => link.Dispose();

    private Errno TryReadHeld(Errno errno, Span<byte> buffer, out int lengthBytes)
    {
        lengthBytes = 0;
        if (_heldIn is not { } held)
        {
            return errno;
        }

        _heldIn = null;
        held.CopyTo(buffer);
        lengthBytes = held.Length;
        return Errno.Success;
    }

    private bool Happens(int perMille)
    {
        bool happens = _choices.Chance(perMille);
        Disturbed += happens ? 1 : 0;
        return happens;
    }
}
