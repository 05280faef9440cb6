namespace Wayleave.Client.Wire;

/// <summary>What a program asks a broker for; docs/broker.md has each body.</summary>
public enum BrokerOperation : ushort
{
    /// <summary>First of all: which versions the program speaks, and its name.</summary>
    Hello = 1,

    /// <summary>A device by its name; answered by its number on this connection and its memory.</summary>
    OpenDevice = 2,

    /// <summary>Memory of an open device; answered by the buffer's number on this connection.</summary>
    Allocate = 3,

    /// <summary>A descriptor that stands for a buffer, for whoever gets it.</summary>
    Export = 4,

    /// <summary>The buffer that a descriptor stands for.</summary>
    Import = 5,

    /// <summary>A buffer's number is given back.</summary>
    Close = 6,

    /// <summary>A descriptor of the buffer's own pages, to be mapped.</summary>
    Map = 7,

    /// <summary>The program has unmapped them, and closed the descriptor.</summary>
    Unmap = 8,

    /// <summary>A buffer's size, name and state.</summary>
    Describe = 9,

    /// <summary>Takes a buffer back from everybody; answered by the proof. For who allocated it.</summary>
    Revoke = 10,

    /// <summary>Both <see cref="Import"/> and <see cref="Map"/>, in one message.</summary>
    ImportAndMap = 32,
}
