using System.Diagnostics.CodeAnalysis;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// The blocks of all send buffers of an endpoint. Made when first needed, up to a limit, and used again.
/// </summary>
internal sealed class SendMemory(int blockBytes, long bytesMax)
{
    private readonly Stack<byte[]> _free = new();
    private long _made;

    /// <summary>A block with anything in it; false when the limit is reached.</summary>
    public bool TryRent([NotNullWhen(true)] out byte[]? block)
    {
        if (_free.TryPop(out block))
        {
            return true;
        }

        if ((_made + 1) * blockBytes > bytesMax)
        {
            return false;
        }

        _made++;
        block = GC.AllocateUninitializedArray<byte>(blockBytes, pinned: true);
        return true;
    }

    public void Return(byte[] block) => _free.Push(block);
}
